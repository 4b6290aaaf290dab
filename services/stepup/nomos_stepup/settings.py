"""Settings of stepup.

Secrets: ``STEPUP_KEY_ENCRYPTION_KEY`` (32 bytes, base64url) seals the cosigner keys and the ends of channels at rest;
``STEPUP_SMTP_PASSWORD``, where the mail server wants one.
"""

from __future__ import annotations

from nomos_runtime.settings import ServiceSettings


class StepupSettings(ServiceSettings, frozen=True, kw_only=True):
    """Settings of stepup.

    Attributes:
        rp_id: relying party id of the passkeys.
        rp_name: its name as authenticators show it.
        rp_origins: origins of the approval pages, comma-separated.
        environment: ``production``, or ``development``, which alone accepts software passkeys.
        approval_seconds: how long an approval waits for humans, seconds.
        enrolment_seconds: how long an enrolment is open, seconds.
        pages_listen: ``address:port`` on which the approval pages are served; empty serves none.
        pages_tls_cert: path of the pages' certificate chain, PEM. Needed unless every origin is ``http://localhost``.
        pages_tls_key: path of its key, PEM.
        session_seconds: how long a person stays signed in to the pages, seconds; at most a day.
        sign_in_services: services whose pages operators sign in to here, each with the one address that the browser is
            sent back to: ``policy=https://policy.example/signed-in``, comma-separated.
        push_subject: how push services reach who runs this, a ``mailto:`` or ``https:`` URL. The key is the secret
            ``STEPUP_PUSH_KEY``; without it no browser is told anything.
        smtp_host: the mail server that sends notices; empty sends no mail.
        smtp_port: its TCP port.
        smtp_tls: ``starttls``, ``tls`` from the first byte, or ``none``, which is for loopback in development.
        smtp_user: who signs in there; empty nobody. The password is the secret ``STEPUP_SMTP_PASSWORD``.
        smtp_from: the address that mails come from.
        wait_ms_max: longest wait that an agent may ask for in one request, milliseconds.
    """

    rp_id: str = "localhost"
    rp_name: str = "Nomos"
    rp_origins: str = "http://localhost:8640"
    environment: str = "production"
    approval_seconds: int = 900
    enrolment_seconds: int = 600
    pages_listen: str = ""
    pages_tls_cert: str = ""
    pages_tls_key: str = ""
    session_seconds: int = 3_600
    sign_in_services: str = ""
    push_subject: str = ""
    smtp_host: str = ""
    smtp_port: int = 587
    smtp_tls: str = "starttls"
    smtp_user: str = ""
    smtp_from: str = ""
    wait_ms_max: int = 25_000
