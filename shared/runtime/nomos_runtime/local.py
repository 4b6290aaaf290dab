"""An installation on one machine, for development, tests and the demonstration: real servers, all keys made here.

Layout of its directory (0700):

    bus/           keys, accounts and credentials of the bus (``provision``)
    nats/  postgres/   the embedded servers; weed/ where there is an archive
    secrets/       one file for each secret of each service (0600), given to it as ``NAME_FILE``
    operator.creds     the operator's bus credentials
    context.json       what the commands need; trust.txt: what ``nomos verify`` pins

Loud about what it is: production keeps these secrets apart and brings its own servers.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import time
from pathlib import Path
from typing import Final

import nats
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from nomos.creds import USER, Credentials, Nkey, read_creds, write_creds
from nomos.errors import Misconfigured, Revoked
from nomos.ids import new_id
from nomos.log.note import NoteSigner
from nomos.log.sealedfield import is_subject, subject_of
from nomos.operator import Operator
from nomos_runtime.embedded.nats import LOOPBACK, STORE_BYTES, EmbeddedNats
from nomos_runtime.embedded.postgres import OWNERS, EmbeddedPostgres, PostgresUrls
from nomos_runtime.embedded.seaweed import EmbeddedSeaweed
from nomos_runtime.embedded.tap import BusTap
from nomos_runtime.provision import Installation, provision_operator
from nomos_runtime.topology.doors import SERVICES
from nomos_runtime.topology.ensure import ensure_streams
from nomos_runtime.topology.issue import issue_user
from nomos_runtime.topology.streams import Bounds

ORIGIN: Final = "nomos.localhost/dev"
OPERATOR_NAME: Final = "admin"
#: Bucket of the archive, with Object Lock.
BUCKET: Final = "nomos-archive"
#: Secrets by service: environment name -> how it is made.
SECRETS: Final[dict[str, tuple[str, ...]]] = {
    "minting": ("MINT_KEY_ENCRYPTION_KEY",),
    "proxy": ("OAUTH_TOKEN_ENCRYPTION_KEY", "PROXY_FEDERATION_KEY"),
    "sanitizer": ("SANITIZER_FINGERPRINT_KEY",),
    "stepup": ("STEPUP_KEY_ENCRYPTION_KEY", "STEPUP_PUSH_KEY"),
    "audit": ("AUDIT_SIGN_KEY", "AUDIT_BLIND_KEY"),
    "identity": ("IDENTITY_KEY_ENCRYPTION_KEY", "IDENTITY_OPERATOR_SIGNING_KEY"),
}
#: Secrets that a service has only while their file is there: the key that follows the log's key, and the other keys
#: that open while an environment key is rotated.
TRANSIENT: Final[dict[str, tuple[str, ...]]] = {
    "audit": ("AUDIT_SIGN_KEY_NEXT",),
    "minting": ("MINT_KEY_ENCRYPTION_KEY_OTHERS",),
    "proxy": ("OAUTH_TOKEN_ENCRYPTION_KEY_OTHERS",),
    "stepup": ("STEPUP_KEY_ENCRYPTION_KEY_OTHERS",),
    "identity": ("IDENTITY_KEY_ENCRYPTION_KEY_OTHERS",),
}


class Local:
    """One local installation. :meth:`start` the servers, then run services with :meth:`environment`."""

    def __init__(
        self,
        directory: Path,
        *,
        bounds: Bounds | None = None,
        max_file_store: int = STORE_BYTES,
        connectors: Path,
        archive: bool = False,
        witnesses: Path | None = None,
        files: Path | None = None,
        pages_port: int = 0,
    ) -> None:
        """Prepares ``directory``; nothing runs yet.

        Args:
            directory: everything of this installation is below it.
            bounds: of the streams; the defaults where None.
            max_file_store: bytes that all streams may reserve together.
            connectors: folder of the connector catalogue.
            archive: whether the log is archived, to an S3 server that is started too.
            witnesses: a trust policy whose witnesses are asked to cosign the log.
            files: folder of the volume ``work``, with a folder for each tenant in it; None for no volume.
            pages_port: TCP port of the approval pages on loopback; 0 keeps that of the last run, or takes a free one.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory = directory.resolve()
        self.connectors = connectors.resolve()
        self.witnesses = None if witnesses is None else witnesses.resolve()
        self.files = None if files is None else files.resolve()
        self.bounds = bounds or Bounds()
        self.nats = EmbeddedNats(self.directory / "nats", max_file_store=max_file_store)
        self.postgres = EmbeddedPostgres(self.directory / "postgres")
        self.seaweed = EmbeddedSeaweed(self.directory / "weed") if archive else None
        self.pages_port = pages_port or self._reserve_port("pages-port")
        self.policy_pages_port = self._reserve_port("policy-pages-port")
        self.connect_pages_port = self._reserve_port("connect-pages-port")
        self.bus_url = self.nats.url
        self.installation: Installation | None = None
        self._tap: BusTap | None = None
        self._urls: PostgresUrls | None = None

    async def start(self, capture: Path | None = None) -> None:
        """Starts the servers, makes keys, streams, roles and schemas that are missing. Call from the main thread.

        Args:
            capture: records every byte on the bus into this file, for the demonstration.
        """
        self.installation = provision_operator(
            self.directory / "bus",
            servers=[self.nats.url],
            issued_at=int(time.time()),
            resolver_directory=self.nats.resolver_directory,
        )
        self.nats.start(self.installation)
        if capture is not None:
            self._tap = await BusTap.start(capture, self.nats.port)
            self.bus_url = self._tap.url
        self._urls = self.postgres.start()
        await self.postgres.prepare()
        if self.seaweed is not None:
            self.seaweed.start()
            self.seaweed.ensure_bucket(BUCKET)
        for account in ("AUDIT", "PROXY"):
            user = f"{account.lower()}-provisioner"
            client = await nats.connect(
                self.nats.url,
                user_credentials=str(self.installation.creds_path(user)),
                inbox_prefix=f"_INBOX.{user}".encode(),
            )
            try:
                await ensure_streams(client, account, self.bounds)
            finally:
                await client.close()
        self._write_public(self.installation)

    def stop(self) -> None:
        """Stops the servers."""
        if self.seaweed is not None:
            self.seaweed.stop()
        if self._tap is not None:
            self._tap.close()
        self.nats.stop()
        self.postgres.stop()

    @property
    def operator_creds(self) -> Path:
        """Path of the operator's credentials file."""
        return self.directory / "operator.creds"

    @property
    def context(self) -> Path:
        """Path of the context file."""
        return self.directory / "context.json"

    @property
    def trust(self) -> Path:
        """Path of the trust file."""
        return self.directory / "trust.txt"

    async def name_operator(self) -> None:
        """Gives the operator their name, once identity serves; before it every service refuses them.

        One who was erased is followed by another: without an operator nobody could do anything here.

        Raises:
            NomosError: identity does not answer, or refuses.
        """
        try:
            await self._name_operator()
        except Revoked:
            self.operator_creds.unlink()
            write_creds(self.operator_creds, issue_operator(self._provisioned(), servers=(self.nats.url,)))
            await self._name_operator()

    async def _name_operator(self) -> None:
        async with await Operator.connect(self.operator_creds, url=self.bus_url) as operator:
            await operator.ask("identity", "operator-name", name=OPERATOR_NAME)

    @property
    def pages_origin(self) -> str:
        """The origin of the approval pages. Browsers take ``http://localhost`` for secure, and no other plain HTTP."""
        return f"http://localhost:{self.pages_port}"

    @property
    def policy_pages_origin(self) -> str:
        """The origin of operators' pages of policy."""
        return f"http://localhost:{self.policy_pages_port}"

    @property
    def connect_pages_origin(self) -> str:
        """The origin of the pages by which accounts are connected."""
        return f"http://localhost:{self.connect_pages_port}"

    def _reserve_port(self, name: str) -> int:
        # It is named before a service listens on it. Somebody else may take it first; then the service says so.
        kept = self.directory / name
        wanted = int(kept.read_text(encoding="ascii")) if kept.exists() else 0
        port = _free_port(wanted) or _free_port(0)
        kept.write_text(str(port), encoding="ascii")
        return port

    def environment(self, service: str) -> dict[str, str]:
        """The environment of one service: its own credentials, database and secrets, and nobody else's."""
        installation = self._provisioned()
        env = {
            "NOMOS_BUS_URL": self.bus_url,
            "NOMOS_BUS_CREDS": str(installation.creds_path(service)),
            "NOMOS_ACCOUNTS": str(self.directory / "accounts.json"),
            "NOMOS_CONNECTORS": str(self.connectors),
            "NOMOS_ENVIRONMENT": "development",
            "NOMOS_ORIGIN": ORIGIN,
        }
        if service == "identity":
            env["NOMOS_IDENTITY_CLAIMS_CREDS"] = str(installation.creds_path("claims"))
        if service == "stepup":
            env |= {
                "NOMOS_STEPUP_PAGES_LISTEN": f"{LOOPBACK}:{self.pages_port}",
                "NOMOS_STEPUP_RP_ORIGINS": self.pages_origin,
                "NOMOS_STEPUP_PUSH_SUBJECT": "mailto:operator@nomos.localhost",
                "NOMOS_STEPUP_SIGN_IN_SERVICES": f"policy={self.policy_pages_origin}/signed-in",
            }
        if service == "policy":
            env |= {
                "NOMOS_POLICY_PAGES_LISTEN": f"{LOOPBACK}:{self.policy_pages_port}",
                "NOMOS_POLICY_PAGES_ORIGIN": self.policy_pages_origin,
                "NOMOS_POLICY_SIGN_IN_SITE": self.pages_origin,
            }
        if service == "proxy":
            env |= {
                "NOMOS_PROXY_PAGES_LISTEN": f"{LOOPBACK}:{self.connect_pages_port}",
                "NOMOS_PROXY_PAGES_ORIGIN": self.connect_pages_origin,
            }
            if self.files is not None:
                env["NOMOS_PROXY_FILES_VOLUMES"] = f"work={self.files}"
        if service in OWNERS and self._urls is not None:
            env["NOMOS_DATABASE_URL"] = self._urls[service]
        for name in SECRETS.get(service, ()):
            env[f"{name}_FILE"] = str(self._secret(name))
        for name in TRANSIENT.get(service, ()):
            path = self.directory / "secrets" / name
            if path.exists():
                env[f"{name}_FILE"] = str(path)
        if service == "audit" and self.seaweed is not None:
            env |= self._archive(self.seaweed)
        if service == "audit" and self.witnesses is not None:
            env["NOMOS_AUDIT_WITNESSES"] = str(self.witnesses)
        return env

    @staticmethod
    def _archive(seaweed: EmbeddedSeaweed) -> dict[str, str]:
        return {
            "NOMOS_AUDIT_ARCHIVE": f"s3://{BUCKET}/log",
            "NOMOS_AUDIT_ARCHIVE_ENDPOINT": seaweed.endpoint,
            "NOMOS_AUDIT_ARCHIVE_LOCK": "required",
            "AUDIT_ARCHIVE_ACCESS_KEY": seaweed.access_key,
            "AUDIT_ARCHIVE_SECRET_KEY": seaweed.secret_key,
        }

    def _provisioned(self) -> Installation:
        if self.installation is None:
            raise Misconfigured("the installation is not started")
        return self.installation

    def _secret(self, name: str) -> Path:
        folder = self.directory / "secrets"
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / name
        if not path.exists():
            if name == "IDENTITY_OPERATOR_SIGNING_KEY":
                text = self._provisioned().operator_signing_key().seed
            elif name == "PROXY_FEDERATION_KEY":
                text = _rsa_key()
            else:
                text = base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip("=")
            write_private(path, text)
        return path

    def _write_public(self, installation: Installation) -> None:
        write_public(self.directory / "accounts.json", json.dumps(installation.accounts))
        # Written once: when another key has followed, its lines are the operator's to put there (nomos audit keys).
        if not self.trust.exists():
            seed = base64.urlsafe_b64decode(self._secret("AUDIT_SIGN_KEY").read_text(encoding="ascii") + "=")
            write_public(self.trust, f"log {NoteSigner(ORIGIN, seed).verifier_key}\nquorum none\n")
        if self.operator_creds.exists() and not is_subject(read_creds(self.operator_creds).name):
            # From before operators were known by an id. No service takes it any more.
            self.operator_creds.unlink()
        if not self.operator_creds.exists():
            write_creds(self.operator_creds, issue_operator(installation, servers=(self.nats.url,)))
        context = {
            "bus_url": self.bus_url,
            "operator_creds": str(self.operator_creds),
            "trust": str(self.trust),
            "origin": ORIGIN,
            "environment": "development",
            "rp_id": "localhost",
            "expected_origin": self.pages_origin,
            "pid": os.getpid(),
        }
        write_public(self.context, json.dumps(context, indent=1))


def issue_operator(installation: Installation, *, servers: tuple[str, ...], tenant: str = "") -> Credentials:
    """A new operator's bus credentials. They bear a random id: the name is said to identity (``operator-name``).

    Args:
        installation: with the roles' keys below its directory.
        servers: where the bus listens.
        tenant: the one tenant that the operator may name; all, and the installation, where empty.
    """
    role, name, user = "tenant-operator" if tenant else "operator", subject_of(new_id("dek")), Nkey.new(USER)
    jwt = issue_user(
        role=role,
        name=name,
        user_public_key=user.public,
        account=installation.accounts["OPS"],
        signer=installation.role_key(role),
        issued_at=int(time.time()),
        tenant=tenant,
    )
    return Credentials(servers=servers, role=role, name=name, tenant=tenant, jwt=jwt, user=user)


def _rsa_key() -> str:
    """A new RSA private key, PEM: the one kind of key that every cloud takes an issuer's signature of."""
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")


def _free_port(wanted: int) -> int:
    """``wanted``, or any port where that is 0; 0 where ``wanted`` is taken."""
    with socket.socket() as probe:
        # As the pages' server does, so that connections of an earlier run, which are over, are not in the way.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, wanted))
        except OSError:
            if wanted:
                return 0
            raise
        return int(probe.getsockname()[1])


def write_private(path: Path, text: str) -> None:
    """Writes a new file that only its owner can read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as f:
        f.write(text)


def write_public(path: Path, text: str) -> None:
    """Replaces a file in one step."""
    draft = path.with_suffix(path.suffix + ".new")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def wipe(directory: Path) -> None:
    """Removes an earlier local installation, and nothing that is not one.

    Raises:
        Misconfigured: the directory holds something else.
    """
    if not directory.exists():
        return
    if any(directory.iterdir()) and not (directory / "bus").is_dir():
        raise Misconfigured(f"{directory} is not an installation; it is left alone")
    shutil.rmtree(directory)


__all__ = ["SERVICES", "Local", "issue_operator", "wipe"]
