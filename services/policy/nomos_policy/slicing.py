"""Which policies a request can meet: an index of policies by their heads.

A policy's head (its scope) names a principal, actions and a resource. Cedar evaluates a policy as one conjunction, the
head first and then each condition, and a conjunction ends at the first part that is false. A policy whose head does not
match is therefore not satisfied, whatever stands in its conditions, and those conditions are never evaluated, so it
cannot fail either. Neither the answer, nor the determining policies, nor the errors depend on it: leaving it out is
exact. Comparing entities in a head cannot fail: a head holds literals and variables only.

The converse is not needed, and not claimed: what is found here may hold a policy that does not match after all (an
action's ``==`` is read as ``in``). It is a superset of what matches, and the engine decides.

The index has one bucket for each combination of what heads name. A request looks into the combinations that it can
satisfy: itself, its ancestors, its type, or anything, for each of the three. Their number depends on the depth of the
hierarchy and not on the number of policies.

A policy linked from a template is indexed like any other, by the head that the link gives it; templates as such are no
policies, and a tenant's set admits none (``policy``).

Trusted: the ancestors that a caller states. One that is missing hides policies; so the same code gives the engine its
entities (``vocabulary.entity_slice``).

Pure. Source: Cedar specification, "Authorization": ``toExpr`` of a policy and ``satisfied``.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from msgspec import Struct

EntityUid = tuple[str, str]


class Scope(Struct, frozen=True, kw_only=True):
    """What a policy's head says about the principal or the resource.

    Attributes:
        type: the entity type after ``is``, or None.
        equal: the entity after ``==``, or None.
        within: the entity after ``in``, or None.
    """

    type: str | None = None
    equal: EntityUid | None = None
    within: EntityUid | None = None

    def may_match(self, entity: Entity) -> bool:
        """Whether an entity satisfies this head."""
        if self.type is not None and self.type != entity.uid[0]:
            return False
        if self.equal is not None and self.equal != entity.uid:
            return False
        return self.within is None or self.within == entity.uid or self.within in entity.ancestors

    @property
    def key(self) -> Hashable:
        """What an entity must be, lie in, or be of; None for any."""
        return self.equal or self.within or self.type


class Head(Struct, frozen=True, kw_only=True):
    """A policy's head.

    Attributes:
        principal: of whom.
        actions: the actions or groups that it names; None for any action.
        resource: on what.
    """

    principal: Scope
    actions: frozenset[EntityUid] | None
    resource: Scope

    def may_match(self, principal: Entity, action: Entity, resource: Entity) -> bool:
        """Whether a request can satisfy this head: False is certain."""
        return (
            (self.actions is None or action.uid in self.actions or not self.actions.isdisjoint(action.ancestors))
            and self.principal.may_match(principal)
            and self.resource.may_match(resource)
        )


class Entity(Struct, frozen=True):
    """One side of a request.

    Attributes:
        uid: which entity.
        ancestors: all that it lies in, however far up.
    """

    uid: EntityUid
    ancestors: frozenset[EntityUid]


class ScopeIndex:
    """Policies by their heads. Immutable."""

    __slots__ = ("_buckets", "_heads")

    def __init__(self, heads: Sequence[Head]) -> None:
        """Builds it; linear in the number of actions that all heads name.

        Args:
            heads: of the policies, in their order.
        """
        self._heads = tuple(heads)
        self._buckets: dict[tuple[Hashable, Hashable, Hashable], list[int]] = {}
        for place, head in enumerate(self._heads):
            for action in (None,) if head.actions is None else head.actions:
                self._buckets.setdefault((head.principal.key, action, head.resource.key), []).append(place)

    def candidates(self, principal: Entity, action: Entity, resource: Entity) -> tuple[int, ...]:
        """The places of all policies whose head the request can satisfy, ascending."""
        found: set[int] = set()
        for bucket in self._met(principal, action, resource):
            found.update(place for place in bucket if self._heads[place].may_match(principal, action, resource))
        return tuple(sorted(found))

    def _met(self, principal: Entity, action: Entity, resource: Entity) -> Iterable[list[int]]:
        actions, resources = _keys(action), _keys(resource)
        for one in _keys(principal):
            for other in actions:
                for last in resources:
                    bucket = self._buckets.get((one, other, last))
                    if bucket is not None:
                        yield bucket


def _keys(entity: Entity) -> tuple[Hashable, ...]:
    """Every :attr:`Scope.key` that the entity can satisfy."""
    return (None, entity.uid[0], entity.uid, *(entity.ancestors - {entity.uid}))
