// Uses a passkey for the form that asks for one, and sends the form with what the authenticator answered.
//
// A form with data-passkey="create" or "get" has the options in data-options (JSON, bytes as base64url) and a hidden
// field "response". Nothing here decides anything: the server verifies every byte. Source: WebAuthn Level 3, 5.1.
"use strict";

(() => {
  const bytes = (text) =>
    Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));

  const text = (buffer) =>
    btoa(Array.from(new Uint8Array(buffer), (b) => String.fromCharCode(b)).join(""))
      .replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");

  const described = (list) => (list || []).map((one) => ({ type: one.type, id: bytes(one.id) }));

  const create = async (asked) => {
    const made = await navigator.credentials.create({
      publicKey: {
        ...asked,
        challenge: bytes(asked.challenge),
        user: { ...asked.user, id: bytes(asked.user.id) },
        excludeCredentials: described(asked.excludeCredentials),
      },
    });
    return answer(made, { attestationObject: text(made.response.attestationObject) });
  };

  const get = async (asked) => {
    const used = await navigator.credentials.get({
      publicKey: {
        ...asked,
        challenge: bytes(asked.challenge),
        allowCredentials: described(asked.allowCredentials),
      },
    });
    const response = {
      authenticatorData: text(used.response.authenticatorData),
      signature: text(used.response.signature),
    };
    if (used.response.userHandle) response.userHandle = text(used.response.userHandle);
    return answer(used, response);
  };

  const answer = (credential, response) => ({
    id: credential.id,
    rawId: text(credential.rawId),
    type: credential.type,
    response: { clientDataJSON: text(credential.response.clientDataJSON), ...response },
  });

  const sentence = (error) => {
    switch (error.name) {
      case "NotAllowedError":
        return "The passkey was not used: it was cancelled, it took too long, or this device has none that fits. Nothing was sent.";
      case "InvalidStateError":
        return "This device has a passkey for you already. Nothing was sent.";
      case "SecurityError":
        return "This page may not use passkeys under this address. Nothing was sent.";
      default:
        return "The passkey could not be used (" + error.name + "). Nothing was sent.";
    }
  };

  const prepare = (form) => {
    const button = form.querySelector("button");
    const status = form.querySelector("[role=status]");
    if (!window.PublicKeyCredential) {
      status.textContent = "This browser knows no passkeys. Use another browser or another device.";
      return;
    }
    button.disabled = false;
    let busy = false;
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (busy) return;
      busy = true;
      button.setAttribute("aria-disabled", "true");
      status.textContent = "Waiting for your passkey…";
      try {
        const asked = JSON.parse(form.dataset.options);
        const made = form.dataset.passkey === "create" ? await create(asked) : await get(asked);
        form.elements.namedItem("response").value = JSON.stringify(made);
        status.textContent = "Sending…";
        form.submit();
      } catch (error) {
        busy = false;
        button.removeAttribute("aria-disabled");
        status.textContent = sentence(error);
        button.focus();
      }
    });
  };

  document.querySelectorAll("form[data-passkey]").forEach(prepare);
})();
