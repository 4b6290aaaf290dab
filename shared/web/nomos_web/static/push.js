// Subscribes this browser to web push, and sends the form with where it can be told.
//
// The form has the sender's public key in data-push, the worker's address in data-worker, and hidden fields. Nothing here
// decides anything: the server checks every byte. Sources: Push API; Service Workers; Trusted Types.
"use strict";

(() => {
  const form = document.querySelector("form[data-push]");
  if (!form) return;
  const button = form.querySelector("button");
  const status = form.querySelector("[role=status]");
  if (!("serviceWorker" in navigator) || !("PushManager" in window) || !("Notification" in window)) {
    status.textContent = "This browser cannot be told.";
    return;
  }
  const policy = window.trustedTypes
    ? window.trustedTypes.createPolicy("nomos-worker", { createScriptURL: (address) => address })
    : { createScriptURL: (address) => address };

  const bytes = (text) =>
    Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));

  const active = (registration) =>
    new Promise((resolve, reject) => {
      const worker = registration.installing || registration.waiting || registration.active;
      const look = () => {
        if (worker.state === "activated") resolve(registration);
        if (worker.state === "redundant") reject(new Error("the worker did not start"));
      };
      worker.addEventListener("statechange", look);
      look();
    });

  const subscribe = async () => {
    if ((await Notification.requestPermission()) !== "granted") {
      status.textContent = "This browser may not show notices here; its settings say so. Nothing was sent.";
      return;
    }
    const worker = policy.createScriptURL(form.dataset.worker);
    const registration = await active(await navigator.serviceWorker.register(worker));
    const made = await registration.pushManager.subscribe({
      userVisibleOnly: true,
      applicationServerKey: bytes(form.dataset.push),
    });
    const { endpoint, keys } = made.toJSON();
    for (const [name, value] of Object.entries({ endpoint, p256dh: keys.p256dh, auth: keys.auth }))
      form.elements.namedItem(name).value = value;
    status.textContent = "Sending…";
    form.submit();
  };

  button.disabled = false;
  let busy = false;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (busy) return;
    busy = true;
    button.setAttribute("aria-disabled", "true");
    status.textContent = "Asking your browser…";
    try {
      await subscribe();
    } catch (error) {
      status.textContent = "This browser could not be subscribed (" + error.name + "). Nothing was sent.";
    }
    busy = false;
    button.removeAttribute("aria-disabled");
  });
})();
