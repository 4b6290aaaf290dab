"""Commands that live in other distributions: they are imported by their entry point when they run."""

from __future__ import annotations

from collections.abc import Sequence

#: Name -> help. The second word of two is a command of a group; its entry point has a hyphen for the blank.
PLUGINS = {
    "up": "start everything on loopback, for development",
    "run": "run one service",
    "demo": "show the main job, step by step",
    "bench": "measure",
    "doctor": "check an installation",
    "operator": "make an operator's credentials; your passkeys and sessions on pages",
    "connector": "what may be called at which provider; check, try and draft a connector's file",
    "replay": "evaluate recorded decisions again",
    "policy explain": "which policies decide a request, and what would change the answer",
    "policy test": "compare the answers of a policy set with a table of expected ones",
    "policy lint": "find what is wrong, or can hardly be meant, in a policy set",
    "policy pack": "sets of policies to start from",
    "policy model": "a policy text as the values that a form shows, and edits of it",
    "policy shadow": "evaluate a candidate set beside the one in force, on live traffic",
    "policy impact": "what a candidate set would have answered to everything that a tenant was asked",
}
#: Commands that do not come from ``nomos-authz-runtime``: name -> distribution.
DISTRIBUTIONS = {
    **dict.fromkeys(("replay", *(name for name in PLUGINS if name.startswith("policy "))), "nomos-authz-policy"),
    "connector": "nomos-authz-proxy",
}


def plugin_of(words: Sequence[str]) -> str | None:
    """The plug-in command that a command line begins with, or None."""
    return next((name for name in (" ".join(words[:2]), *words[:1]) if name in PLUGINS), None)
