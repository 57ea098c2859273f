"use strict";
// What the pages do by themselves: load anew the parts that change, and show times relative to now.

const TICK_MS = 1000; // at most one request a tick, from the whole page
const LOST_AFTER = 3; // failed requests in a row

// --- Times ---

const UNITS = [["day", 86400], ["h", 3600], ["min", 60], ["s", 1]];

function ago(seconds) {
  const rest = Math.abs(seconds);
  const [unit, length] = UNITS.find(([, length]) => rest >= length) || UNITS[UNITS.length - 1];
  const count = Math[seconds < 0 ? "round" : "floor"](rest / length); // 89.9 days ahead are 90
  const words = `${count} ${unit}${unit === "day" && count !== 1 ? "s" : ""}`;
  return seconds < 0 ? `in ${words}` : `${words} ago`;
}

function showTimes() {
  const now = Date.now();
  for (const time of document.querySelectorAll("time[datetime]")) {
    if (!time.title) time.title = time.textContent;
    const text = ago((now - Date.parse(time.dateTime)) / 1000);
    if (time.textContent !== text) time.textContent = text;
  }
}

// --- Parts that change ---

const due = new WeakMap(); // part -> when it is to be asked for again
let failures = 0;
let isAsking = false;

function isSelectedIn(part) {
  const selection = document.getSelection();
  return Boolean(selection) && !selection.isCollapsed && part.contains(selection.anchorNode);
}

function tick() {
  showTimes();
  if (document.hidden || isAsking) return;
  const now = Date.now();
  const parts = [...document.querySelectorAll(".live[data-seconds]")]
    .filter((part) => (due.get(part) || 0) <= now && !isSelectedIn(part) && !part.querySelector("[data-over]"));
  if (!parts.length) return;
  const part = parts.reduce((one, other) => ((due.get(other) || 0) < (due.get(one) || 0) ? other : one));
  due.set(part, now + part.dataset.seconds * TICK_MS - TICK_MS / 2);
  htmx.trigger(part, "refresh");
}

function tellConnection() {
  const text = failures >= LOST_AFTER ? "Connection lost: what is shown may be old. Trying again…" : "";
  const place = document.getElementById("connection");
  if (place.textContent !== text) place.textContent = text;
}

document.addEventListener("htmx:configRequest", (event) => {
  const part = event.detail.elt;
  if (part.dataset.offset) event.detail.parameters.offset = part.dataset.offset; // the log's
  if (part.dataset.etag) event.detail.headers["If-None-Match"] = `"${part.dataset.etag}"`;
});

document.addEventListener("htmx:beforeRequest", () => { isAsking = true; });

document.addEventListener("htmx:afterRequest", (event) => {
  isAsking = false;
  const { status } = event.detail.xhr;
  if (event.detail.xhr.getResponseHeader("X-Log-Over")) delete event.detail.elt.dataset.seconds;
  failures = status >= 200 && status < 400 ? 0 : failures + 1;
  tellConnection();
});

let kept = null; // what a swap would lose: opened details, and how far logs are scrolled

document.addEventListener("htmx:beforeSwap", (event) => {
  const part = event.detail.target;
  if (event.detail.xhr.status === 304) {
    event.detail.shouldSwap = false;
    return;
  }
  const etag = event.detail.xhr.getResponseHeader("ETag");
  if (etag) part.dataset.etag = etag.replaceAll('"', "");
  const offset = event.detail.xhr.getResponseHeader("X-Next-Offset");
  if (offset) part.dataset.offset = offset;
  kept = {
    opened: [...part.querySelectorAll("details[open][id]")].map((one) => one.id),
    scrolled: [part, ...part.querySelectorAll("pre.log[id]")].filter((one) => one.id).map((one) => ({
      id: one.id,
      top: one.scrollTop,
      isAtEnd: one.scrollTop + one.clientHeight >= one.scrollHeight - 4,
    })),
  };
});

document.addEventListener("htmx:afterSwap", () => {
  if (kept) {
    for (const id of kept.opened) document.getElementById(id)?.setAttribute("open", "");
    for (const { id, top, isAtEnd } of kept.scrolled) {
      const log = document.getElementById(id);
      if (log) log.scrollTop = isAtEnd ? log.scrollHeight : top;
    }
    kept = null;
  }
  showTimes();
});

// --- Start ---

// A link on another site comes without the cookie, which is SameSite=Strict; our own request has it.
if (document.querySelector("[data-sign-in]") && document.referrer
    && new URL(document.referrer).origin !== location.origin) {
  location.replace(location.href);
}

for (const part of document.querySelectorAll(".live[data-seconds]")) {
  due.set(part, Date.now() + part.dataset.seconds * TICK_MS);
}
for (const log of document.querySelectorAll("pre.log[id]")) log.scrollTop = log.scrollHeight;
showTimes();
setInterval(tick, TICK_MS);
document.addEventListener("visibilitychange", tick);
