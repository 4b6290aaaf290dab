"""A request that nobody made: to be explained, or to be compared with what is expected.

The words are checked as an agent's are (``handlers``), so that the answer is the one that an agent would get. Pure.
"""

from __future__ import annotations

from nomos.errors import UnknownResource
from nomos.ids import AgentId, AppId, TenantId, parse_slug
from nomos_policy.decision import AuthorizeFacts
from nomos_policy.guard import check_agent_data
from nomos_policy.policyset import CompiledSet
from nomos_policy.vocabulary import Principal


def facts_of(
    policies: CompiledSet,
    *,
    tenant: str,
    app: str,
    agent: str,
    env: str,
    action: str,
    resource: str,
    args: object,
    connection: str,
    cosigned: bool,
    now_seconds: int,
) -> AuthorizeFacts:
    """One request as the service would decide it, from its words.

    Args:
        policies: to decide with.
        tenant: whose.
        app: the agent's.
        agent: who asks.
        env: the app's environment.
        action: its id.
        resource: in its one spelling.
        args: of the action.
        connection: whose credential would be used; empty for the connector's name.
        cosigned: as if a human had approved exactly this request.
        now_seconds: Unix time.

    Raises:
        NomosError: the action, the resource or the arguments are none.
    """
    catalogue = policies.vocabulary.catalogue
    found = catalogue.action(action)
    parsed = catalogue.parse_resource(resource)
    if parsed.type != found.resource_type:
        raise UnknownResource(f"{action} acts on a {found.resource_type.connector}:{found.resource_type.kind}")
    checked, _ = check_agent_data(args, {})
    return AuthorizeFacts(
        principal=Principal(tenant=TenantId(tenant), app=AppId(app), agent=AgentId(agent), env=env),
        action=found,
        resource=parsed,
        connection=parse_slug(connection, "connection") if connection else found.connector,
        args=checked,
        claims={},
        now_seconds=now_seconds,
        cosigned=cosigned,
        policies=policies,
    )
