// The table of peers: a row each, on a phone a card each.

import { each, el, set, svg, tell } from "./dom.js";
import { NOTHING, bytes, condition, count, duration, isNumber, loss, percent, short, whole } from "./format.js";

const FEW = { wide: 100, phone: 12 };
const ROLES = ["peer", "holder", "coming", "bootstrap", "left"];
const hasModel = (peer) => peer.role === "peer" || peer.role === "holder";
const ofReport = (field, text) => ({
  value: (peer) => (peer.has_report ? peer[field] : null),
  text: (peer) => (peer.has_report ? text(peer[field]) : NOTHING),
});

// What is shown of a peer; `value` sorts, and is what the status says; `more` adds to the text.
const COLUMNS = [
  { title: "peer", field: "peer_id", value: (peer) => peer.peer_id, text: (peer) => short(peer.peer_id), isName: true },
  { title: "domain", field: "domain", value: (peer) => peer.domain, text: (peer) => peer.domain || NOTHING },
  { title: "step", field: "step", isNumber: true, value: (peer) => peer.step, text: (peer) => (hasModel(peer) ? whole(peer.step) : NOTHING) },
  { title: "round", field: "round", isNumber: true, value: (peer) => peer.round, text: (peer) => (hasModel(peer) ? whole(peer.round) : NOTHING) },
  { title: "tokens/s", field: "tokens_per_s", isNumber: true, ...ofReport("tokens_per_s", count) },
  { title: "loss", field: "loss_bits_per_byte", isNumber: true, ...ofReport("loss_bits_per_byte", loss) },
  { title: "validation", field: "validation_bits_per_byte", isNumber: true, ...ofReport("validation_bits_per_byte", loss) },
  { title: "utilisation", field: "utilisation_frac", hint: "part of the time in which it trains; the rest it waits", isNumber: true, ...ofReport("utilisation_frac", percent) },
  { title: "trained", field: "trained_tokens", hint: "tokens that it has trained on, as it says", isNumber: true, value: (peer) => peer.contribution?.trained_tokens ?? null, text: (peer) => count(peer.contribution?.trained_tokens) },
  { title: "used", field: "used_tokens", hint: "of those, what is in averages that it saw land", isNumber: true, value: (peer) => peer.contribution?.used_tokens ?? null, text: (peer) => count(peer.contribution?.used_tokens), more: workBar },
  { title: "attested", field: "attested_tokens", hint: "of those, what other peers' own reports carry, and how many of them", isNumber: true, value: (peer) => peer.attested_tokens, text: (peer) => (peer.attested_by ? `${count(peer.attested_tokens)} by ${whole(peer.attested_by)}` : NOTHING) },
  { title: "late", field: "late_rounds", hint: "landings without its work, which goes with a later one", isNumber: true, value: (peer) => peer.contribution?.late_rounds ?? null, text: (peer) => whole(peer.contribution?.late_rounds) },
  { title: "refused", field: "refused", hint: "why exchanges and transfers came to nothing, and how often", value: (peer) => peer.contribution?.refused ?? null, sortBy: (peer) => refusals(peer), text: refusedText, title_: refusedAll },
  { title: "waits for", field: "waits", hint: "what it waits for now, from whom, and for how long", value: (peer) => peer.waits, sortBy: (peer) => peer.waits[0]?.for_s ?? -1, text: waitsText },
  { title: "sent", field: "sent_bytes", isNumber: true, ...ofReport("sent_bytes", bytes) },
];

export class PeerTable {
  constructor(root, more, { onPoint, onChoose }) {
    Object.assign(this, { root, more, onPoint, onChoose, sort: null, isWhole: false, view: null, pinned: null });
    this.head = el("tr", { role: "row" });
    this.body = el("tbody", { role: "rowgroup" });
    root.append(el("thead", { role: "rowgroup" }, this.head), this.body);
    more.firstElementChild.addEventListener("click", () => {
      this.isWhole = true;
      this.show(this.view);
    });
  }

  choose(peerId) {
    this.pinned = peerId;
    if (this.view) this.show(this.view);
  }

  show(view) {
    this.view = view;
    const columns = COLUMNS.filter((column) => column.field !== "domain" || view.peers.some((peer) => peer.domain));
    each(this.head, columns, (column) => column.field, (column) => this.makeHeading(column), (cell, column) => {
      const isSorted = this.sort?.field === column.field;
      set(cell, { "aria-sort": isSorted ? (this.sort.isUp ? "ascending" : "descending") : "none" });
    });
    const rows = this.ordered(view.peers);
    const shown = this.isWhole ? rows : rows.slice(0, matchMedia("(max-width: 640px)").matches ? FEW.phone : FEW.wide);
    this.more.hidden = shown.length === rows.length;
    this.more.firstElementChild.textContent = `Show all ${whole(rows.length)}`;
    each(this.body, shown, (peer) => peer.peer_id, (peer) => this.makeRow(peer), (row, peer) => this.fillRow(row, peer, columns));
    this.root.hidden = !rows.length;
  }

  ordered(peers) {
    const usual = (a, b) => ROLES.indexOf(a.role) - ROLES.indexOf(b.role) || less(a.domain, b.domain) || less(a.peer_id, b.peer_id);
    if (!this.sort) return [...peers].sort(usual);
    const column = COLUMNS.find((each) => each.field === this.sort.field);
    const keyOf = column.sortBy ?? column.value;
    const sign = this.sort.isUp ? 1 : -1;
    return [...peers].sort((a, b) => {
      const [x, y] = [keyOf(a), keyOf(b)];
      if ((x === null) !== (y === null)) return x === null ? 1 : -1; // what is not known is last
      return sign * less(x, y) || usual(a, b);
    });
  }

  makeHeading(column) {
    const button = el("button", { type: "button", title: column.hint }, column.title);
    button.addEventListener("click", () => {
      const isSame = this.sort?.field === column.field;
      const first = !column.isNumber; // the largest number first, the first name first
      this.sort = isSame && this.sort.isUp !== first ? null : { field: column.field, isUp: isSame ? !first : first };
      this.show(this.view);
    });
    return el("th", { scope: "col", role: "columnheader", class: column.isNumber ? "number" : null }, button);
  }

  makeRow(peer) {
    const row = el("tr", { role: "row", "data-peer": peer.peer_id });
    row.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && this.onPoint(peer.peer_id));
    row.addEventListener("pointerleave", () => this.onPoint(null));
    row.addEventListener("click", () => this.onChoose(peer.peer_id));
    return row;
  }

  fillRow(row, peer, columns) {
    const is = condition(peer);
    const classes = [is.kind, ...(is.lags ? ["lags"] : []), ...(is.silent ? ["silent"] : [])];
    if (peer.peer_id === this.pinned) classes.push("pinned");
    set(row, { class: classes.join(" ") });
    each(row, columns, (column) => column.field, makeCell, (cell, column) => {
      const text = column.text(peer);
      const [words, ...rest] = cell.children;
      tell(words, column.field, column.value(peer), text);
      cell.classList.toggle("nothing", text === NOTHING);
      if (column.title_) set(cell, { title: column.title_(peer) });
      if (column.isName) {
        set(words, { title: peer.peer_id, "aria-pressed": peer.peer_id === this.pinned });
        rest[0].textContent = is.words;
      }
      if (column.more) column.more(rest[0], peer);
    });
  }
}

function makeCell(column) {
  if (column.isName) {
    const name = el("button", { type: "button", class: "mono name" });
    return el("th", { scope: "row", role: "rowheader" }, name, el("span", { class: "muted state" }));
  }
  const bar = column.more ? svg("svg", { class: "bar", viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" }) : null;
  const attributes = { role: "cell", class: `${column.isNumber ? "number " : ""}of-${column.field}`, "data-label": column.title };
  return el("td", attributes, el("span", { class: "said" }), bar);
}

/** Of the trained tokens, what is in averages; and of that, what others attest. */
function workBar(bar, peer) {
  const whole = peer.contribution?.trained_tokens ?? 0;
  const part = (tokens) => (whole > 0 && isNumber(tokens) ? Math.min(100, (100 * tokens) / whole) : 0);
  const parts = [
    ["trained", whole > 0 ? 100 : 0],
    ["used", part(peer.contribution?.used_tokens)],
    ["attested", part(peer.attested_tokens)],
  ];
  each(bar, parts, ([name]) => name, ([name]) => svg("rect", { class: name, height: 4 }), (rect, [, width]) => set(rect, { width: width.toFixed(1) }));
}

function refusals(peer) {
  return peer.contribution ? peer.contribution.refused.reduce((sum, [, number]) => sum + number, 0) : null;
}

function refusedText(peer) {
  const refused = peer.contribution?.refused ?? [];
  if (!refused.length) return NOTHING;
  const [reason, number] = refused[0];
  return `${whole(number)} × ${reason}${refused.length > 1 ? `, and ${refused.length - 1} more` : ""}`;
}

function refusedAll(peer) {
  return (peer.contribution?.refused ?? []).map(([reason, number]) => `${whole(number)} × ${reason}`).join("\n");
}

function waitsText(peer) {
  if (!peer.waits.length) return NOTHING;
  const [{ name, whom, for_s: forS }] = peer.waits;
  const more = peer.waits.length > 1 ? `, and ${peer.waits.length - 1} more` : "";
  return `${name}${whom ? ` from ${whom}` : ""}, ${duration(forS)}${more}`;
}

function less(a, b) {
  return a < b ? -1 : a > b ? 1 : 0;
}
