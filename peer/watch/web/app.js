// Asks for the status each second while somebody looks, and hands it to what draws.

import { Charts } from "./charts.js";
import { showDetail, showTip } from "./detail.js";
import { clock, duration, loss, whole } from "./format.js";
import { showDomains, showEvents, showRun, showTotals } from "./lists.js";
import { Ring } from "./ring.js";
import { PeerTable } from "./table.js";

const EVERY_MS = 1000;
const PATIENCE_MS = 5000;
const STALE_MS = 15000; // a node that answers, but learns nothing new

const by = (id) => document.getElementById(id);

let view = null;
let pointed = null;
let pinned = null;
let changedMs = 0; // when the view last changed, on our clock
let answeredMs = 0;
let timer = 0;
let isAsking = false;

function choose(peerId) {
  pinned = peerId === pinned ? null : peerId;
  ring.choose(pinned);
  table.choose(pinned);
  drawChosen();
  if (pinned) by("detail").scrollIntoView({ block: "nearest" });
}

function drawChosen() {
  if (!view) return;
  showTip(by("tip"), view, pointed, ring.spotOf(pointed));
  showDetail(by("detail"), view, pinned, () => choose(null));
}

const ring = new Ring(by("ring"), {
  onPoint(peerId) {
    pointed = peerId;
    drawChosen();
  },
  onChoose: choose,
});
const table = new PeerTable(by("peers"), by("peers-more"), {
  onPoint: (peerId) => ring.highlight(peerId),
  onChoose: choose,
});
const charts = new Charts(by("charts"));

function draw() {
  showRun(by("name"), by("run"), view);
  showTotals(by("totals"), view);
  by("nobody").hidden = view.peers.some((peer) => peer.role !== "bootstrap");
  ring.show(view, performance.now());
  drawChosen();
  charts.show(view);
  table.show(view);
  showDomains(by("domains-card"), by("domains"), view);
  showEvents(by("events"), by("no-events"), view);
  const found = view.validation_bits_per_byte ?? view.loss_bits_per_byte;
  const news = [`round ${whole(view.round)}`, ...(found === null ? [] : [`${loss(found)} bits/byte`])];
  document.title = `${view.name}: ${news.join(", ")}`;
}

const PULSES = { connecting: "connecting", live: "live", entering: "entering", stale: "no news", lost: "not connected" };

/** Says how fresh all this is: one of the words above, and what else there is to say. */
function sayPulse(state, words = "") {
  by("trouble").hidden = !words;
  if (by("trouble").textContent !== words) by("trouble").textContent = words;
  by("trouble").dataset.state = state;
  document.body.classList.toggle("is-lost", state === "lost" || state === "stale");
  by("pulse").dataset.state = state;
  if (by("pulse").textContent !== PULSES[state]) by("pulse").textContent = PULSES[state];
}

async function ask() {
  const answer = await fetch("status.json", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  if (answer.status === 503) return null;
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  return answer.json();
}

async function look() {
  clearTimeout(timer);
  if (isAsking || document.hidden) return;
  isAsking = true;
  let seen;
  try {
    seen = await ask();
  } catch {
    seen = undefined;
  }
  isAsking = false;
  const nowMs = performance.now();
  if (seen) {
    answeredMs = Date.now();
    if (seen.at_unix_s !== view?.at_unix_s) changedMs = nowMs;
    view = seen;
    draw();
    const silentMs = nowMs - changedMs;
    if (silentMs < STALE_MS) sayPulse("live");
    else sayPulse("stale", `The node answers, but has learned nothing new for ${duration(Math.round(silentMs / 1000))}.`);
  } else if (seen === null) {
    sayPulse("entering", "Still entering the run. The page goes on as soon as that is done.");
  } else {
    const since = answeredMs ? ` since ${clock(answeredMs / 1000)}; what you see is from then` : "";
    sayPulse("lost", `The node does not answer${since}. Asking again every second.`);
  }
  if (!document.hidden) timer = setTimeout(look, EVERY_MS);
}

document.addEventListener("visibilitychange", look);
look();
