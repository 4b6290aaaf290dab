"""The directory: identity's facts, folded. Which bus account is which tenant, who its agents are, and the operators.

Trusted: identity, for these facts. Everything that names a tenant or an agent in a request is looked up here from the
subject that the server stamped; nothing here is ever filled from a request.
"""

from __future__ import annotations

import msgspec

from nomos import events
from nomos.errors import Revoked, UnknownAgent, UnknownOperator, UnknownTenant
from nomos.servicemessages import Fact


class AgentFacts(msgspec.Struct, frozen=True, kw_only=True):
    """An agent as identity knows it. ``did`` is its UCAN key, ``key`` its bus key."""

    tenant: str
    agent: str
    app: str
    env: str
    did: str
    key: str


class Directory:
    """Fold of identity's facts. ``apply`` each fact in order."""

    def __init__(self) -> None:
        self._tenant_of_account: dict[str, str] = {}
        self._tenants: dict[str, str] = {}
        self._agents: dict[tuple[str, str], AgentFacts] = {}
        self._by_did: dict[tuple[str, str], str] = {}
        self._apps: set[tuple[str, str]] = set()
        self._auditors: dict[tuple[str, str], str] = {}
        self._revoked: set[tuple[str, str]] = set()
        self._closed: set[str] = set()
        #: Subject of each operator, and whether they still are one.
        self._operators: dict[str, bool] = {}
        #: The one tenant that an operator may name; empty for all.
        self._tenant_of_operator: dict[str, str] = {}

    @property
    def tenants(self) -> list[str]:
        """The tenants, in order of creation."""
        return list(self._tenants)

    def has_tenant(self, tenant: str) -> bool:
        """Whether the installation has this tenant."""
        return tenant in self._tenants

    def is_closed(self, tenant: str) -> bool:
        """Whether the tenant has been closed: it asks for nothing any more, and gets nothing new."""
        return tenant in self._closed

    def apply(self, fact: Fact) -> None:
        """Folds one fact; unknown types are kept out."""
        event = fact.event
        match fact.type:
            case events.TENANT_CREATED:
                self._tenant_of_account[str(event["account"])] = fact.tenant
                self._tenants[fact.tenant] = str(event["account"])
            case events.APP_CREATED:
                self._apps.add((fact.tenant, str(event["app"])))
            case events.AGENT_CREATED:
                agent = AgentFacts(
                    tenant=fact.tenant,
                    agent=str(event["agent"]),
                    app=str(event["app"]),
                    env=str(event["env"]),
                    did=str(event["did"]),
                    key=str(event["key"]),
                )
                self._agents[fact.tenant, agent.agent] = agent
                self._by_did[fact.tenant, agent.did] = agent.agent
            case events.AUDITOR_CREATED:
                self._auditors[fact.tenant, str(event["auditor"])] = str(event["key"])
            case events.KEY_REVOKED:
                self._revoked.add((fact.tenant, str(event["key"])))
            case events.TENANT_CLOSED:
                self._closed.add(fact.tenant)
            case events.OPERATOR_ADDED:
                self._operators[str(event["operator"])] = True
                self._tenant_of_operator[str(event["operator"])] = str(event["tenant"])
            case events.OPERATOR_REMOVED:
                self._operators[str(event["operator"])] = False

    def tenant(self, account: str) -> str:
        """The tenant of a bus account.

        Raises:
            UnknownTenant: it is no tenant of this installation.
            Revoked: the tenant is closed.
        """
        tenant = self._tenant_of_account.get(account)
        if tenant is None:
            raise UnknownTenant("this bus account is no tenant")
        if tenant in self._closed:
            raise Revoked("this tenant is closed")
        return tenant

    def check_auditor(self, tenant: str, auditor: str) -> None:
        """Checks that ``auditor`` of ``tenant`` may still read: the bus is told of a revocation, but later than this.

        Raises:
            UnknownAgent: this tenant has no such auditor.
            Revoked: the auditor's key has been revoked.
        """
        key = self._auditors.get((tenant, auditor))
        if key is None:
            raise UnknownAgent("this bus user is no auditor of this tenant")
        if (tenant, key) in self._revoked:
            raise Revoked("the key of this auditor is revoked")

    def has_app(self, tenant: str, app: str) -> bool:
        """Whether ``tenant`` has this app."""
        return (tenant, app) in self._apps

    def check_operator(self, operator: str) -> None:
        """Checks that ``operator``, a subject's id, has a name and has not been erased.

        Raises:
            UnknownOperator: they have given no name.
            Revoked: they have been erased.
        """
        found = self._operators.get(operator)
        if found is None:
            raise UnknownOperator("this operator has no name yet", hint="nomos operator create gives one")
        if not found:
            raise Revoked("this operator has been erased")

    def tenant_of_operator(self, operator: str) -> str:
        """The one tenant that ``operator`` may name; empty for an operator of the whole installation.

        Raises:
            UnknownOperator, Revoked: as :meth:`check_operator`.
        """
        self.check_operator(operator)
        return self._tenant_of_operator[operator]

    def agent(self, tenant: str, agent: str) -> AgentFacts:
        """The agent ``agent`` of ``tenant``.

        Raises:
            UnknownAgent: this tenant has no such agent.
            Revoked: its key has been revoked.
        """
        facts = self._agents.get((tenant, agent))
        if facts is None:
            raise UnknownAgent("this bus user is no agent of this tenant")
        if (tenant, facts.key) in self._revoked:
            raise Revoked("the key of this agent is revoked")
        return facts

    def agent_of(self, tenant: str, did: str) -> AgentFacts:
        """The agent of ``tenant`` whose UCAN key is ``did``.

        Raises:
            UnknownAgent: this tenant has no such agent.
            Revoked: its key has been revoked.
        """
        name = self._by_did.get((tenant, did))
        if name is None:
            raise UnknownAgent("this key is no agent's of this tenant")
        return self.agent(tenant, name)
