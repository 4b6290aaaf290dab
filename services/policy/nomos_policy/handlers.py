"""The hot path's edge: one agent's request to one decision, journaled before it is answered.

    checked facts -> (batch) Cedar -> allow: minting signs and journals decision and delegation together
                                   -> deny:  journaled here
                                   -> step-up: stepup opens the approval, then journaled here

The requests of one loop tick are evaluated together and their allows go to minting as one message.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Final

import msgspec

from nomos import messages, servicemessages
from nomos.catalogue import Action, Catalogue, Resource
from nomos.client import error_of
from nomos.errors import Malformed, NomosError, UnknownResource
from nomos.events import DECISION_MADE, Actor, Envelope
from nomos.ids import AgentId, AppId, TenantId, new_id, parse_slug
from nomos.log.record import check_profile
from nomos.messages import Authorize, Command, Decoder, Denied, Failure, StepUpRequired, failure, now_ms
from nomos.request import request_digest
from nomos.servicemessages import MintBatch, Minted, MintItem
from nomos_policy.cosigners import Cosigners
from nomos_policy.decision import AuthorizeFacts, Decision, Outcome, decide_batch
from nomos_policy.guard import check_agent_data
from nomos_policy.record import decision_event
from nomos_policy.settings import PolicySettings
from nomos_policy.store import PolicySets
from nomos_policy.vocabulary import Principal
from nomos_runtime.batching import Batcher
from nomos_runtime.bus import Bus
from nomos_runtime.directory import AgentFacts, Directory
from nomos_runtime.journal import Journal, encode_event
from nomos_runtime.responder import Caller

#: Resource texts whose parsed form is kept.
RESOURCES_MAX: Final = 4_096
#: Bytes of decisions in one message to minting; the other members of an item fit beside them.
MINT_BYTES_MAX: Final = 500_000

decoder: Final = Decoder.of(Authorize, "authorize")
_mint_reply: Final = Decoder.of(servicemessages.MintReply | Failure, "mint reply")
_open_reply: Final = Decoder.of(servicemessages.ApprovalOpened | Failure, "open approval reply")


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One request, checked: everything that is decided and recorded."""

    command: Authorize
    agent: AgentFacts
    facts: AuthorizeFacts
    digest: bytes
    decision_id: str


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """A decision, its envelope, and for an allow minting's answer."""

    decision: Decision
    envelope: Envelope
    minted: servicemessages.Minted | Failure | None = None


class Authorizer:
    """Answers ``authorize``."""

    def __init__(
        self,
        *,
        settings: PolicySettings,
        bus: Bus,
        journal: Journal,
        directory: Directory,
        catalogue: Catalogue,
        sets: PolicySets,
        cosigners: Cosigners,
        check_fresh: Callable[[], None],
        decided: Callable[[AuthorizeFacts, Decision, str], None],
    ) -> None:
        """Takes the parts; ``decided`` is told each decision with its id, and must be quick and total."""
        self._settings = settings
        self._bus = bus
        self._journal = journal
        self._directory = directory
        self._catalogue = catalogue
        # Agents ask for the same few resources again and again; a refusal is not kept.
        self._parse_resource = lru_cache(maxsize=RESOURCES_MAX)(catalogue.parse_resource)
        self._sets = sets
        self._cosigners = cosigners
        self._check_fresh = check_fresh
        self._decided = decided
        self._batches: Batcher[Asked, Decided] = Batcher(
            self._decide, items_max=settings.batch_max, in_flight_max=settings.batches_in_flight_max
        )

    async def authorize(self, caller: Caller, command: Command) -> msgspec.Struct:
        """Decides one request of the agent that the bus names.

        Raises:
            StalePolicy: this replica cannot prove that its policies and revocations are fresh.
            NomosError: the request is refused before a decision; the responder records it.
        """
        if not isinstance(command, Authorize):
            raise Malformed("not an authorize message")
        self._check_fresh()
        asked = await self._check(caller, command)
        # Again: the check may have waited for stepup, or for the tenant's policies to be compiled.
        self._check_fresh()
        decided = await self._batches.submit(asked)
        self._decided(asked.facts, decided.decision, asked.decision_id)
        match decided.decision.outcome:
            case Outcome.ALLOW:
                return _allowed(asked, decided)
            case Outcome.DENY:
                await self._journal.append([decided.envelope])
                return Denied(
                    decision=asked.decision_id,
                    reason=decided.decision.reason,
                    policies=list(decided.decision.policies),
                    revision=decided.decision.revision,
                )
            case Outcome.STEP_UP:
                return await self._step_up(asked, decided)

    async def _check(self, caller: Caller, command: Authorize) -> Asked:
        agent = self._directory.agent(caller.tenant, caller.name)
        action = self._catalogue.action(command.action)
        resource = self._resource(action, command.resource)
        connection = parse_slug(command.connection, "connection") if command.connection else action.connector
        args, claims = check_agent_data(command.args, command.claims)
        # At the depth at which the decision's record holds them: what cannot be recorded is not decided.
        check_profile({"event": {"request": {"args": args, "claims": claims}}})
        digest = request_digest(action.id, resource.text, args, connection)
        if command.cosigner is not None:
            # Verified and spent before Cedar sees cosigned=true: a lost answer costs the approval, never a second use.
            await self._cosigners.spend(
                command.cosigner,
                agent=agent,
                action=action,
                resource=resource.text,
                connection=connection,
                digest=digest,
                request=command.id,
            )
        facts = AuthorizeFacts(
            principal=Principal(
                tenant=TenantId(caller.tenant), app=AppId(agent.app), agent=AgentId(agent.agent), env=agent.env
            ),
            action=action,
            resource=resource,
            connection=connection,
            args=args,
            claims=claims,
            now_seconds=int(time.time()),
            cosigned=command.cosigner is not None,
            policies=await self._sets.in_force(caller.tenant),
        )
        return Asked(command=command, agent=agent, facts=facts, digest=digest, decision_id=new_id("dc"))

    def _resource(self, action: Action, text: str) -> Resource:
        resource = self._parse_resource(text)
        if resource.type != action.resource_type:
            wanted = f"{action.resource_type.connector}:{action.resource_type.kind}"
            raise UnknownResource(f"{action.id} acts on a {wanted}")
        return resource

    async def _decide(self, asked: Sequence[Asked]) -> list[Decided]:
        """One batch: Cedar for all, then its allows to minting: one message, but for very large decisions."""
        at_ms = now_ms()
        decided = [
            Decided(decision=decision, envelope=_envelope(one, decision, at_ms))
            for one, decision in zip(asked, decide_batch([one.facts for one in asked]), strict=True)
        ]
        items: dict[int, MintItem] = {}
        for i, one in enumerate(decided):
            if one.decision.outcome is Outcome.ALLOW:
                try:
                    items[i] = _mint_item(asked[i], one.envelope)
                except NomosError as e:
                    # Of this request alone: what the log cannot hold must not happen.
                    decided[i] = msgspec.structs.replace(one, minted=failure(e))
        for minted in await asyncio.gather(*(self._mint(some) for some in _messages(items))):
            for i, answer in minted.items():
                decided[i] = msgspec.structs.replace(decided[i], minted=answer)
        return decided

    async def _mint(self, items: Mapping[int, MintItem]) -> dict[int, Minted | Failure]:
        """Minting's answer to each; where it gives none, the failure is that of these allows and of nothing else."""
        batch = MintBatch(v=1, items=list(items.values()))
        try:
            reply = _mint_reply.decode(
                await self._bus.request("svc.mint", messages.encode(batch), self._settings.request_timeout_ms)
            )
        except NomosError as e:
            reply = failure(e)
        if isinstance(reply, Failure):
            return dict.fromkeys(items, reply)
        if not isinstance(reply, servicemessages.MintReply) or len(reply.items) != len(items):
            return dict.fromkeys(items, failure(Malformed("not a mint reply")))
        return dict(zip(items, reply.items, strict=True))

    async def _step_up(self, asked: Asked, decided: Decided) -> StepUpRequired:
        decision, facts = decided.decision, asked.facts
        message = servicemessages.OpenApproval(
            v=1,
            tenant=asked.agent.tenant,
            agent=asked.agent.agent,
            agent_did=asked.agent.did,
            app=asked.agent.app,
            request=asked.command.id,
            action=facts.action.id,
            risk=facts.action.risk.value,
            resource=facts.resource.text,
            connection=facts.connection,
            args=dict(facts.args),
            digest=asked.digest,
            decision=asked.decision_id,
            revision=decision.revision,
            policy_set=decision.policy_set_hash,
            policies=list(decision.policies),
            quorums=list(decision.quorums),
        )
        reply = _open_reply.decode(
            await self._bus.request("svc.stepup.open", messages.encode(message), self._settings.request_timeout_ms)
        )
        if isinstance(reply, Failure):
            raise error_of(reply)
        if not isinstance(reply, servicemessages.ApprovalOpened):
            raise Malformed("not an open approval reply")
        event = {**decided.envelope.event, "approval": reply.approval}
        await self._journal.append([msgspec.structs.replace(decided.envelope, event=event)])
        return StepUpRequired(
            decision=asked.decision_id,
            approval=reply.approval,
            expires_at=reply.expires_at,
            url=reply.url,
            policies=list(decision.policies),
            revision=decision.revision,
        )


def _allowed(asked: Asked, decided: Decided) -> messages.Allowed:
    minted = decided.minted
    if isinstance(minted, Failure):
        raise error_of(minted)
    if minted is None:
        raise Malformed("minting gave no answer for an allow")
    return messages.Allowed(
        decision=asked.decision_id,
        delegation=minted.delegation,
        expires_at=minted.expires_at,
        policies=list(decided.decision.policies),
        revision=decided.decision.revision,
    )


def _envelope(asked: Asked, decision: Decision, at_ms: int) -> Envelope:
    event = decision_event(
        asked.facts, decision, decision_id=asked.decision_id, request_id=asked.command.id, digest=asked.digest
    )
    event["at_ms"] = at_ms
    return Envelope(
        id=new_id("ev"),
        type=DECISION_MADE,
        tenant=asked.agent.tenant,
        actor=Actor(kind="agent", id=asked.agent.agent),
        corr=asked.command.id,
        cause="",
        event=event,
    )


def _mint_item(asked: Asked, envelope: Envelope) -> MintItem:
    return MintItem(
        tenant=asked.agent.tenant,
        agent=asked.agent.agent,
        agent_did=asked.agent.did,
        action=asked.facts.action.id,
        resource=asked.facts.resource.text,
        connection=asked.facts.connection,
        digest=asked.digest,
        decision=msgspec.Raw(encode_event(envelope)),
    )


def _messages(items: Mapping[int, MintItem]) -> list[dict[int, MintItem]]:
    """The items in as few messages as :data:`MINT_BYTES_MAX` allows: a large request costs its neighbours nothing."""
    found: list[dict[int, MintItem]] = []
    size = 0
    for i, item in items.items():
        added = len(item.decision)
        if not found or size + added > MINT_BYTES_MAX:
            found.append({})
            size = 0
        found[-1][i] = item
        size += added
    return found
