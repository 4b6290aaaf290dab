"""What the proxy may call, and how a request and its resource follow from each other.

See :mod:`~nomos.catalogue.model` for the values, :mod:`~nomos.catalogue.load` for the files,
:mod:`~nomos.catalogue.request` and :mod:`~nomos.catalogue.derive` for the two directions.
"""

from __future__ import annotations

from nomos.catalogue.derive import derive_resource
from nomos.catalogue.load import load_catalogue, parse_connector
from nomos.catalogue.model import Action, Auth, Catalogue, Connector, Parameter, Rate, Resource, ResourceType, Risk
from nomos.catalogue.pages import next_args
from nomos.catalogue.request import OutgoingRequest, build_request

__all__ = [
    "Action",
    "Auth",
    "Catalogue",
    "Connector",
    "OutgoingRequest",
    "Parameter",
    "Rate",
    "Resource",
    "ResourceType",
    "Risk",
    "build_request",
    "derive_resource",
    "load_catalogue",
    "next_args",
    "parse_connector",
]
