// Shows what a web push message says, and opens the approval when somebody presses it. It does nothing else.
"use strict";

self.addEventListener("push", (event) => {
  const told = event.data.json();
  event.waitUntil(
    self.registration.showNotification(told.title, { body: told.body, tag: told.tag, data: { path: told.path } }),
  );
});

self.addEventListener("notificationclick", (event) => {
  event.notification.close();
  const path = String(event.notification.data.path);
  // Only a page of ours, whatever a message says.
  if (/^\/approvals\/[a-z0-9_]+$/.test(path)) event.waitUntil(self.clients.openWindow(path));
});
