// Exchanges in the picture: lines between their peers that light up, and fade once they are over.

import { each, set, svg } from "./dom.js";
import { duration, exchangeKey } from "./format.js";

const LANDED_MS = 8000; // as long as the animations in style.css
const FAILED_MS = 24000;
const ABSENT_MS = 10000; // who looked away so long is not shown all at once what was missed
const AGAIN_S = 5; // what began so much later is another attempt
const RANK = { "under way": 0, failed: 1, landed: 2 };
const CLASS = { "under way": "under-way", failed: "failed", landed: "landed" };

export class Wires {
  constructor(root) {
    this.root = root;
    this.seen = new Map(); // of each exchange: how it stands, and since when on our clock
    this.shownMs = -Infinity;
  }

  /** Who is in an exchange that is under way. */
  busy() {
    const found = new Set();
    for (const { outcome, members } of this.seen.values()) {
      if (outcome === "under way") members.forEach((member) => found.add(member));
    }
    return found;
  }

  /** Notes how exchanges stand, and when we saw that they had changed. */
  follow(view, nowMs) {
    const told = new Map(); // the last that each member tells of each exchange
    for (const exchange of view.exchanges) {
      told.set(`${exchangeKey(exchange)} ${exchange.peer_id}`, exchange);
    }
    const best = new Map();
    for (const exchange of told.values()) {
      const key = exchangeKey(exchange);
      const other = best.get(key);
      const laterS = other ? exchange.began_unix_s - other.began_unix_s : 0;
      const isBetter = !other || laterS > AGAIN_S || (laterS > -AGAIN_S && RANK[exchange.outcome] > RANK[other.outcome]);
      if (isBetter) best.set(key, exchange);
    }
    const looksOn = nowMs - this.shownMs < ABSENT_MS;
    const before = this.seen;
    this.shownMs = nowMs;
    this.seen = new Map();
    for (const [key, exchange] of best) {
      const known = before.get(key);
      const { outcome } = exchange;
      if (!Object.hasOwn(RANK, outcome)) continue;
      const ageMs = looksOn ? 0 : 1000 * Math.max(0, view.at_unix_s - exchange.began_unix_s - exchange.took_s);
      const isSame = known?.outcome === outcome && Math.abs(known.exchange.began_unix_s - exchange.began_unix_s) < AGAIN_S;
      const sinceMs = isSame ? known.sinceMs : nowMs - ageMs;
      const lastsMs = { landed: LANDED_MS, failed: FAILED_MS }[outcome] ?? Infinity;
      const members = [...new Set([exchange.peer_id, ...exchange.partners])];
      this.seen.set(key, { key, outcome, members, exchange, sinceMs, isOver: nowMs - sinceMs > lastsMs });
    }
  }

  /** `spots`: where each peer is. */
  draw(spots) {
    const shown = [...this.seen.values()]
      .filter((each) => !each.isOver)
      .map((each) => ({ ...each, ends: each.members.map((id) => spots.get(id)).filter(Boolean) }))
      .filter((each) => each.ends.length > 1);
    each(this.root, shown, (each) => `${each.key} ${each.outcome} ${each.sinceMs}`, makeWire, (group, { outcome, ends, exchange }) => {
      set(group, { class: `wire ${CLASS[outcome]}` });
      const [title, glow, line, hub] = group.children;
      const path = ends.length === 2 ? chord(ends[0], ends[1]) : star(ends);
      set(glow, { d: path });
      set(line, { d: path });
      const middle = ends.length === 2 ? middleOf(ends[0], ends[1]) : hubOf(ends);
      const [x, y] = [middle.x.toFixed(1), middle.y.toFixed(1)];
      const cross = `M${x} ${y}m-4 -4l8 8m0 -8l-8 8`;
      set(hub, { d: outcome === "failed" ? cross : ends.length > 2 ? `M${x} ${y}h0` : "M0 0" });
      const why = exchange.reason ? `: ${exchange.reason}` : "";
      title.textContent = `round ${exchange.round}, part ${exchange.fragment}, ${outcome}${why} (${duration(exchange.took_s)})`;
    });
  }
}

function makeWire({ sinceMs }) {
  const parts = [svg("path", { class: "glow" }), svg("path", { class: "line" }), svg("path", { class: "hub" })];
  const group = svg("g", {}, svg("title"), ...parts);
  // What we learned of late is as far into its animation as it is old.
  group.style.setProperty("--late", `${Math.min(0, sinceMs - performance.now())}ms`);
  return group;
}

/** A line from peer to peer that bows towards the middle. */
function chord(a, b) {
  const { bend } = middleOf(a, b);
  return `M${a.x.toFixed(1)} ${a.y.toFixed(1)}Q${bend.x.toFixed(1)} ${bend.y.toFixed(1)} ${b.x.toFixed(1)} ${b.y.toFixed(1)}`;
}

/** Returns the middle of that line, and the point that bends it: the further apart, the more. */
function middleOf(a, b) {
  const [x, y] = [(a.x + b.x) / 2, (a.y + b.y) / 2];
  const apart = Math.hypot(a.x - b.x, a.y - b.y) / (Math.hypot(a.x, a.y) + Math.hypot(b.x, b.y) || 1);
  const rest = 1 - Math.min(0.65, 0.9 * apart);
  return { x: x * (0.5 + rest / 2), y: y * (0.5 + rest / 2), bend: { x: x * rest, y: y * rest } };
}

/** Lines from all members of a larger group to its middle. */
function star(ends) {
  const hub = hubOf(ends);
  return ends
    .map((end) => `M${end.x.toFixed(1)} ${end.y.toFixed(1)}L${hub.x.toFixed(1)} ${hub.y.toFixed(1)}`)
    .join("");
}

function hubOf(ends) {
  const sum = ends.reduce((all, end) => ({ x: all.x + end.x, y: all.y + end.y }), { x: 0, y: 0 });
  return { x: (0.55 * sum.x) / ends.length, y: (0.55 * sum.y) / ends.length };
}
