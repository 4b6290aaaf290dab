"""The words of every command, a function for each family. What a command does is in the module that it names."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from nomos.cli.words import Group, Words, lazy

#: Processes that a command may be told to use.
PROCESSES_MAX = 64


def _count(text: str) -> int:
    """A number of processes."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= PROCESSES_MAX:
        raise argparse.ArgumentTypeError(f"expected 1 to {PROCESSES_MAX}, got {text!a}")
    return int(text)


def identities(words: Words) -> None:
    """Tenants, apps, agents, auditors, keys."""
    group = words.group("tenant", "tenants")
    words.add("create", "create a tenant", lazy("admin", "tenant_create"), group=group).add_argument("name")
    words.add("list", "list tenants", lazy("admin", "tenant_list"), group=group)

    doing = "close a tenant and destroy every key of it"
    sub = words.add("erase", doing, lazy("subject", "tenant_erase"), group=group, tenant=True)
    sub.add_argument("--basis", required=True, metavar="WORDS", help="why; stands in the log in plain text")
    sub.add_argument("--yes", action="store_true", help="without it nothing is done")

    group = words.group("app", "apps of a tenant")
    sub = words.add("create", "create an app", lazy("admin", "app_create"), group=group, tenant=True)
    sub.add_argument("name")
    sub.add_argument("--env", choices=("live", "test"), default="test")

    for role, about in (("agent", "agents of an app"), ("auditor", "auditors of a tenant")):
        group = words.group(role, about)
        doing = f"create an {role} and write its credentials"
        sub = words.add("create", doing, lazy("admin", f"{role}_create"), group=group, tenant=True)
        sub.add_argument("name")
        if role == "agent":
            sub.add_argument("--app", required=True)
        sub.add_argument("--creds", required=True, metavar="FILE", help="where to write; must not exist")

    group = words.group("key", "bus keys")
    words.add("list", "list the keys of a tenant", lazy("admin", "key_list"), group=group, tenant=True)
    doing = "revoke a key; its holder is disconnected at once"
    sub = words.add("revoke", doing, lazy("admin", "key_revoke"), group=group, tenant=True)
    sub.add_argument("key")
    sub.add_argument("--why", default="")

    group = words.group("issuer", "the key that signs a tenant's delegations")
    words.add("list", "list the issuing keys, newest first", lazy("minting", "issuer_list"), group=group, tenant=True)
    doing = "replace the issuing key; what the old one signed runs out within a minute"
    sub = words.add("rotate", doing, lazy("minting", "issuer_rotate"), group=group, tenant=True)
    sub.add_argument("--why", default="")
    doing = "take a delegation back, or all that were issued, with all that was handed on from them"
    sub = words.add("revoke", doing, lazy("minting", "revoke"), tenant=True)
    sub.add_argument("cid", metavar="CID", nargs="?", help="bafy…, as the log and nomos inspect name it")
    sub.add_argument("--app", metavar="NAME", help="instead of CID: everything issued for this app up to now")
    sub.add_argument("--all", action="store_true", help="instead of CID: everything issued for the tenant up to now")
    sub.add_argument("--why", default="")


def people(words: Words) -> None:
    """The people whom the log names."""
    group = words.group("subject", "people whom the log names: approvers, auditors, and operators (--tenant _sys)")
    doing = "people, and the ids that records name them by"
    words.add("list", doing, lazy("subject", "subject_list"), group=group, tenant=True)
    doing = "everything about one person, machine-readable"
    sub = words.add("export", doing, lazy("subject", "subject_export"), group=group, tenant=True)
    sub.add_argument("name")
    sub.add_argument("--out", required=True, metavar="FILE", help="where to write; must not exist")
    sub.add_argument("--with-keys", default="", metavar="FILE", help="also the keys, for nomos verify --keys")
    doing = "take a person's rights away and destroy their key; what is sealed under it is unreadable for good"
    sub = words.add("erase", doing, lazy("subject", "subject_erase"), group=group, tenant=True)
    sub.add_argument("name")
    sub.add_argument("--basis", required=True, metavar="WORDS", help="why; stands in the log in plain text")


def policies(words: Words) -> None:
    """Policy sets and connections."""
    group = words.group("policy", "policy sets of a tenant")
    doing = "validate a policy set and put it in force"
    sub = words.add("put", doing, lazy("policies", "policy_put"), group=group, tenant=True)
    sub.add_argument("file")
    _change(sub)
    words.add("list", "list the policies in force", lazy("policies", "policy_list"), group=group, tenant=True)
    words.add("history", "list the revisions", lazy("policies", "policy_history"), group=group, tenant=True)
    sub = words.add("show", "print a policy set", lazy("policies", "policy_show"), group=group, tenant=True)
    sub.add_argument("--revision", type=int, default=0, help="0 (the default) for the one in force")
    sub = words.add("activate", "put a draft in force", lazy("policies", "policy_activate"), group=group, tenant=True)
    sub.add_argument("draft")
    _change(sub)
    doing = "put the text of an earlier revision in force, as a new one"
    sub = words.add("rollback", doing, lazy("policies", "policy_rollback"), group=group, tenant=True)
    sub.add_argument("--to", type=int, required=True, metavar="N")
    _change(sub)
    sub = words.add("diff", "compare two policy texts", lazy("policies", "policy_diff"), group=group, tenant=True)
    for name in ("one", "other"):
        sub.add_argument(name, help="a revision's number, draft:NAME, or a file")
    sub.add_argument("--context-lines", type=int, default=3, metavar="N", help="around a difference (default 3)")

    about = "policy sets that are not in force"
    drafts = group.add_parser("draft", help=about, description=about).add_subparsers(
        dest="draft_command", metavar="COMMAND", required=True
    )
    sub = words.add("save", "keep a policy set as a draft", lazy("policies", "draft_save"), group=drafts, tenant=True)
    sub.add_argument("draft")
    sub.add_argument("file")
    sub.add_argument("--why", default="")
    sub.add_argument("--if-sha256", metavar="HASH", help="only in place of this draft; '' only as a new one")
    words.add("list", "list the drafts", lazy("policies", "draft_list"), group=drafts, tenant=True)
    sub = words.add("show", "print a draft", lazy("policies", "draft_show"), group=drafts, tenant=True)
    sub.add_argument("draft")
    sub = words.add("discard", "end a draft", lazy("policies", "draft_discard"), group=drafts, tenant=True)
    sub.add_argument("draft")
    sub.add_argument("--why", default="")

    group = words.group("sanitize", "what is removed from answers")
    doing = "say or set which personal data is removed"
    sub = words.add("pii", doing, lazy("sanitize", "pii"), group=group, tenant=True)
    sub.add_argument("classes", nargs="?", metavar="CLASSES", help="card, iban, email, phone with commas, or none")


def connections(words: Words) -> None:
    """Bearers and accounts."""
    group = words.group("connection", "connections to upstreams")
    elsewhere = "development only: another origin than the connector's"
    doing = "add a connection, and store its credential, sealed"
    sub = words.add("add", doing, lazy("connections", "connection_add"), group=group, tenant=True)
    sub.add_argument("--connector", required=True)
    sub.add_argument("--name", required=True)
    sub.add_argument("--token-file", metavar="FILE", help="the credential, where the connector needs one")
    sub.add_argument(
        "--host", default="", metavar="NAME", help="where the connector leaves it open; for files a volume"
    )
    kinds = "bearer, basic, signature, header:NAME, header:NAME:WORD or aws4:SERVICE"
    sub.add_argument("--user", default="", metavar="NAME", help="as whom, on a host of SSH")
    sub.add_argument("--port", type=int, default=0, help="of a host of SSH, where not the usual one")
    about = "public key file of a host of SSH (again for more)"
    sub.add_argument("--host-key", action="append", default=[], metavar="FILE", help=about)
    about = "directory below which paths on a host of SSH may lead (again for more)"
    sub.add_argument("--root", action="append", default=[], metavar="DIR", help=about)
    sub.add_argument("--auth", default="", metavar="HOW", help=f"where the connector leaves it open: {kinds}")
    sub.add_argument("--base-url", default="", help=elsewhere)
    doing = "put another bearer, or other host keys, in place of a connection's"
    sub = words.add("replace", doing, lazy("connections", "connection_replace"), group=group, tenant=True)
    sub.add_argument("name")
    sub.add_argument("--token-file", metavar="FILE")
    about = "public key file of a host of SSH, instead of those that are pinned (again for more)"
    sub.add_argument("--host-key", action="append", default=[], metavar="FILE", help=about)
    words.add("list", "list connections", lazy("connections", "connection_list"), group=group, tenant=True)
    doing = "show a connection's state; exit 1 where it cannot be used"
    sub = words.add("show", doing, lazy("connections", "connection_show"), group=group, tenant=True)
    sub.add_argument("name")
    _given_by_providers(words, group, elsewhere)
    doing = "have the provider renew an account's tokens now"
    sub = words.add("renew", doing, lazy("connections", "connection_renew"), group=group, tenant=True)
    sub.add_argument("name")
    doing = "close a connection for good, and revoke an account's tokens"
    sub = words.add("remove", doing, lazy("connections", "connection_remove"), group=group, tenant=True)
    sub.add_argument("name")
    doing = "say how far the rotation of the token encryption key is"
    words.add("keys", doing, lazy("connections", "connection_keys"), group=group)


def _given_by_providers(words: Words, group: Group[argparse.ArgumentParser], elsewhere: str) -> None:
    """Connections whose credentials nobody brings."""
    doing = "set the tenant's client at a provider, or list what is set"
    sub = words.add("client", doing, lazy("connections", "connection_client"), group=group, tenant=True)
    _client(sub)
    doing = "set a client for every tenant that has none of its own, or list what is set"
    sub = words.add("shared-client", doing, lazy("connections", "connection_shared_client"), group=group)
    _client(sub)
    sub.add_argument("--withdraw", action="store_true", help="take no further account through it")
    doing = "give a link by which somebody connects an account, once"
    sub = words.add("connect", doing, lazy("connections", "connection_connect"), group=group, tenant=True)
    sub.add_argument("--connector", required=True)
    sub.add_argument("--name", required=True, help="of the connection; one that is there is connected again")
    sub.add_argument("--scope", action="append", default=[], help="instead of the connector's (again for more)")
    sub.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="until somebody has done it")
    sub.add_argument("--device", action="store_true", help="give a code to be entered at the provider, and wait")
    sub.add_argument("--base-url", default="", help=elsewhere)
    doing = "add a connection to which a cloud gives credentials; nothing secret is stored"
    sub = words.add("federate", doing, lazy("connections", "connection_federate"), group=group, tenant=True)
    sub.add_argument("--connector", required=True)
    sub.add_argument("--name", required=True)
    sub.add_argument("--host", default="", metavar="NAME", help="where the connector leaves it open")
    sub.add_argument("--aws-role", metavar="ARN", help="a role whose trust policy names issuer and subject")
    sub.add_argument("--aws-region", metavar="REGION", help="whose STS is asked")
    sub.add_argument("--gcp-audience", metavar="NAME", help="full name of a provider of a workload identity pool")
    doing = "Google's service account that the connection acts as, NAME@PROJECT.iam.gserviceaccount.com"
    sub.add_argument("--gcp-service-account", metavar="EMAIL", help=doing)
    doing = "of the service account's token, instead of cloud-platform (again for more)"
    sub.add_argument("--gcp-scope", action="append", default=[], metavar="SCOPE", help=doing)
    sub.add_argument("--azure", nargs=3, metavar=("DIRECTORY", "CLIENT", "SCOPE"), help="a federated identity")
    sub.add_argument("--base-url", default="", help=elsewhere)
    sub.add_argument("--exchange-url", default="", help="development only: another origin than the cloud's")


def _client(sub: argparse.ArgumentParser) -> None:
    """A client at a provider."""
    sub.add_argument("--connector", default="")
    sub.add_argument("--client-id", default="", metavar="ID")
    sub.add_argument("--secret-file", default="", metavar="FILE", help="none for a public client")
    doing = "of a client that proves itself by a key: RSA or P-256, PEM"
    sub.add_argument("--private-key-file", default="", metavar="FILE", help=doing)
    sub.add_argument("--base-url", default="", help="development only: another origin than the provider's")


def _change(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--why", default="", help="the reason, for the log")
    sub.add_argument("--if-revision", type=int, metavar="N", help="only if this revision is in force")
    sub.add_argument("--no-wait", action="store_true", help="do not wait until every replica has it")


def calls(words: Words) -> None:
    """What an agent does."""
    for name, about in (("authorize", "ask for a decision"), ("call", "authorize, invoke, print the body")):
        sub = words.add(name, about, lazy("agent", name), context=False)
        sub.add_argument("action", help="for instance github:issues.list")
        sub.add_argument("resource", help="for instance github:repo/acme/site")
        sub.add_argument("--creds", required=name == "authorize", metavar="FILE")
        sub.add_argument("--args", default="{}", metavar="JSON")
        sub.add_argument(
            "--upload", metavar="[NAME=]FILE", help="send a file as the argument NAME, unless said: upload"
        )
        sub.add_argument("--media-type", metavar="TYPE", help="of --upload; guessed from the file's name")
        sub.add_argument("--connection", default="", metavar="NAME")
        sub.add_argument("--cosigner", metavar="FILE", help="cosigner delegation of an approved step-up")
        sub.add_argument("--timeout", type=float, default=10.0, metavar="SECONDS")
        if name == "call":
            sub.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="wait for a human")
            sub.add_argument("--stream", action="store_true", help="print the answer while it comes")
            doing = "print the request that would be sent, without credential; ask and send nothing"
            sub.add_argument("--dry-run", action="store_true", help=doing)
            sub.add_argument("--connectors", metavar="DIR", default="connectors", help="with --dry-run: the catalogue")


def approvals(words: Words) -> None:
    """What a human decides."""
    group = words.group("approver", "people who approve")
    sub = words.add("add", "add an approver", lazy("approvals", "approver_add"), group=group, tenant=True)
    sub.add_argument("name")
    sub.add_argument("--software-passkey", metavar="FILE", help="development only: enrol a software passkey")
    sub.add_argument("--group", action="append", default=[], metavar="NAME", help="a group to be in (again for more)")
    words.add("list", "list the approvers", lazy("approvals", "approver_list"), group=group, tenant=True)
    doing = "say which groups an approver is in, all of them"
    sub = words.add("groups", doing, lazy("approvals", "approver_groups"), group=group, tenant=True)
    sub.add_argument("name")
    sub.add_argument("group", nargs="*")
    doing = "give a link by which a person enrols a passkey, once"
    sub = words.add("link", doing, lazy("approvals", "approver_link"), group=group, tenant=True)
    sub.add_argument("name")
    doing = "list the passkeys of an approver"
    sub = words.add("passkeys", doing, lazy("approvals", "approver_passkeys"), group=group, tenant=True)
    sub.add_argument("name")
    doing = "take one passkey of an approver out of use"
    sub = words.add("revoke-passkey", doing, lazy("approvals", "approver_revoke_passkey"), group=group, tenant=True)
    sub.add_argument("name")
    sub.add_argument("passkey", help="its short name, from nomos approver passkeys")
    doing = "end every session of a person on the approval pages"
    sub = words.add("sign-out", doing, lazy("approvals", "approver_sign_out"), group=group, tenant=True)
    sub.add_argument("name")
    sub = words.add("approvals", "list what waits for a human", lazy("approvals", "approvals"), tenant=True)
    sub.add_argument("--all", action="store_true", help="also what has ended, and why it was refused")
    sub = words.add("approve", "approve with a passkey", lazy("approvals", "approve"))
    sub.add_argument("id")
    sub.add_argument("--tenant", default="", metavar="T")
    sub.add_argument("--software-passkey", required=True, metavar="FILE", help="development only")
    sub.add_argument("--out", metavar="FILE", help="write the cosigner delegation here")
    sub = words.add("cancel", "take a request for approval back", lazy("approvals", "cancel"))
    sub.add_argument("id")
    sub.add_argument("--tenant", default="", metavar="T")
    sub.add_argument("--why", default="")


def notices(words: Words) -> None:
    """Who is told that somebody must approve."""
    group = words.group("notify", "channels that are told when somebody must approve")
    sub = words.add("add", "add a channel", lazy("notices", "notify_add"), group=group, tenant=True)
    sub.add_argument("name")
    sub.add_argument("--webhook", metavar="URL", help="a hook that gets signed JSON")
    sub.add_argument("--slack", metavar="URL", help="a hook that takes Slack's messages")
    sub.add_argument("--email", metavar="ADDRESS")
    sub.add_argument("--group", default="", metavar="NAME", help="only what this group of approvers is asked")
    sub.add_argument("--after", type=int, default=0, metavar="SECONDS", help="only what has waited so long")
    words.add("list", "list the channels", lazy("notices", "notify_list"), group=group, tenant=True)
    sub = words.add("remove", "remove a channel", lazy("notices", "notify_remove"), group=group, tenant=True)
    sub.add_argument("name")
    doing = "tell a channel of a request that nobody made"
    sub = words.add("test", doing, lazy("notices", "notify_test"), group=group, tenant=True)
    sub.add_argument("name")


def log(words: Words) -> None:
    """The log and its offline check."""
    group = words.group("audit", "the log")
    doing = "print records as they come, verifying the chain"
    sub = words.add("tail", doing, lazy("audit", "tail"), group=group)
    sub.add_argument("--tenant", default="", metavar="T")
    sub.add_argument("--auditor-creds", metavar="FILE")
    sub.add_argument("--from", dest="from_tseq", type=int, default=0, metavar="TSEQ")
    sub.add_argument("--follow", action="store_true", help="go on until interrupted")
    sub.add_argument("--names", action="store_true", help="ask for the names behind the ids of people")
    doing = "export the log, or one tenant's records, to files"
    sub = words.add("export", doing, lazy("audit", "export"), group=group)
    sub.add_argument("--tenant", default="", metavar="T")
    sub.add_argument("--out", required=True, metavar="DIR")
    doing = "one of a tenant's records with its proof"
    sub = words.add("receipt", doing, lazy("receipts", "receipt"), group=group, tenant=True)
    sub.add_argument("record", metavar="TSEQ|EVENT_ID", help="the record's number among the tenant's, or its id")
    sub.add_argument("--out", required=True, metavar="FILE", help="the receipt; the record goes to FILE.record")
    doing = "print the log's keys as lines of a trust file, each proven by the one before"
    sub = words.add("keys", doing, lazy("logkeys", "keys"), group=group)
    sub.add_argument("--proofs", default="", metavar="DIR", help="write the proof of each change of key here")
    doing = "go over to the key AUDIT_SIGN_KEY_NEXT of the audit service"
    words.add("rotate-key", doing, lazy("logkeys", "rotate_key"), group=group)
    doing = "take away ended segments of the chain whose records are archived, read back and sealed"
    sub = words.add("retire", doing, lazy("retire", "retire"), group=group)
    asked = "of the user audit-retirer, who alone may delete a segment; without it, only look"
    sub.add_argument("--retirer-creds", default="", metavar="FILE", help=asked)
    doing = "a record of the log, or that one checkpoint continues another, with its proof"
    sub = words.add("prove", doing, lazy("receipts", "prove"))
    sub.add_argument("seq", type=int, nargs="?", metavar="SEQ", help="the record's number in the log")
    sub.add_argument("--from", dest="older", type=int, metavar="SIZE", help="instead of SEQ: a size that was signed")
    sub.add_argument("--to", dest="newer", type=int, metavar="SIZE", help="a later one; else the log as it stands")
    sub.add_argument("--tenant", default="", metavar="T", help="as this tenant's operator")
    sub.add_argument("--out", default="", metavar="FILE", help="the receipt; the record goes to FILE.record")

    doing = "verify an archive, an export, a tenant's bundle, a receipt or a proof of consistency, offline"
    sub = words.add("verify", doing, lazy("verify", "verify"), context=False)
    sub.add_argument("path", metavar="PATH", help="the folder; or a receipt, with its record beside it; or a proof")
    sub.add_argument("--trust", required=True, metavar="FILE", help="your own policy: whose signatures count")
    sub.add_argument("--level", type=int, choices=(0, 1, 2), default=1, help="0 seals, 1 content (default), 2 meaning")
    asked = "demand this tenant's bundle, not the whole log"
    sub.add_argument("--tenant-bundle", "--tenant", dest="tenant", default="", metavar="T", help=asked)
    sub.add_argument("--state", default="", metavar="FILE", help="compare with, and remember, what was verified")
    sub.add_argument("--full", action="store_true", help="with --state: read also what was verified before")
    sub.add_argument("--record", default="", metavar="FILE", help="the record of a receipt (default: beside it)")
    sub.add_argument("--strict", action="store_true", help="warnings are failures")
    sub.add_argument(
        "--keys", default="", metavar="FILE", help="people's keys that were disclosed; opens sealed fields"
    )
    sub.add_argument("--tsa-roots", default="", metavar="FILE", help="PEM of whom you trust for time stamps")
    sub.add_argument("--workers", type=_count, default=0, metavar="N", help="processes (default: by size)")
    sub.add_argument("--quiet", action="store_true", help="no progress on a terminal")


def watching(words: Words) -> None:
    """Those who watch a log from outside."""
    group = words.group("witness", "a witness of logs: cosigns checkpoints that continue what it saw")
    doing = "make a witness's key"
    sub = words.add("keygen", doing, lazy("witness", "keygen"), group=group, context=False)
    sub.add_argument("--name", required=True, help="a URL without scheme, for instance witness.example.org/w1")
    sub.add_argument("--out", required=True, metavar="FILE", help="the secret key; must not exist")
    sub = words.add("run", "serve until interrupted", lazy("witness", "run"), group=group, context=False)
    sub.add_argument("--name", required=True)
    sub.add_argument("--key-file", required=True, metavar="FILE")
    sub.add_argument("--state", required=True, metavar="DIR", help="what it remembers; never remove it")
    sub.add_argument("--log", required=True, action="append", metavar="VKEY", help="a log's key; again for more")
    sub.add_argument("--listen", default="127.0.0.1:7380", metavar="HOST:PORT")
    sub.add_argument("--tls-cert", default="", metavar="FILE")
    sub.add_argument("--tls-key", default="", metavar="FILE")
    sub.add_argument("--ready-file", default="", metavar="FILE", help="written with the address when it serves")
    doing = "follow a log's archive or export, and alarm when it goes back, forks, or stands still"
    sub = words.add("monitor", doing, lazy("monitor", "monitor"), context=False)
    sub.add_argument("path", metavar="PATH", help="the folder, kept up to date by a copy of the store")
    sub.add_argument("--trust", required=True, metavar="FILE", help="your own policy: whose signatures count")
    sub.add_argument("--state", required=True, metavar="FILE", help="what was verified; never remove it")
    asked = "demand this tenant's bundle, not the whole log"
    sub.add_argument("--tenant-bundle", "--tenant", dest="tenant", default="", metavar="T", help=asked)
    sub.add_argument("--max-age", type=float, default=0.0, metavar="SECONDS", help="of the newest cosignature")
    sub.add_argument("--every", type=float, default=60.0, metavar="SECONDS", help="between two looks (default 60)")
    sub.add_argument("--once", action="store_true", help="one look, for instance from cron")
    sub.add_argument("--evidence", default="", metavar="DIR", help="where notes that contradict each other are kept")


def reading(words: Words) -> None:
    """Tokens and topics."""
    sub = words.add("inspect", "show a token for people", lazy("inspect", "inspect"), context=False)
    sub.add_argument("token", help="the token; a file that holds it, or a chain with a token a line; or -")
    sub = words.add("help", "explain a topic", lazy("help", "help_topic"), context=False)
    sub.add_argument("topic", nargs="?", default="")


FAMILIES: tuple[Callable[[Words], None], ...] = (
    identities,
    people,
    policies,
    connections,
    calls,
    approvals,
    notices,
    log,
    watching,
    reading,
)
