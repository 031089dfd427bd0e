// The totals at the top, the domains, and the events.

import { each, el, set, svg, tell } from "./dom.js";
import { bytes, clock, count, loss, percent, short, whole } from "./format.js";

const TOTALS = [
  ["num_training", "peers training", whole],
  ["round", "round", whole],
  ["tokens", "tokens", count],
  ["tokens_per_s", "tokens/s", count],
  ["loss_bits_per_byte", "training loss", loss],
  ["validation_bits_per_byte", "validation loss", loss],
  ["utilisation_frac", "utilisation", percent],
  ["sent_bytes", "sent", bytes],
];

export function showTotals(root, view) {
  const make = ([field, title]) => el("div", { class: field }, el("dt", {}, title), el("dd", {}));
  each(root, TOTALS, ([field]) => field, make, (tile, [field, , format]) => {
    tell(tile.lastChild, field, view[field], format(view[field]));
  });
}

export function showDomains(card, table, view) {
  card.hidden = !view.domains.length;
  if (!table.body) {
    const headings = ["domain", "peers", "step", "", "copies", "state"].map((title) => el("th", { scope: "col", role: "columnheader" }, title));
    table.body = el("tbody", { role: "rowgroup" });
    table.append(el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...headings)), table.body);
  }
  each(table.body, view.domains, (domain) => domain.domain, makeDomain, (row, domain) => {
    const [name, peers, steps, bar, copies, state] = row.children;
    const done = domain.is_done ? 1 : Math.min(1, domain.step / domain.total_steps || 0);
    tell(name, "domain", domain.domain, domain.domain);
    tell(peers, "peers", domain.peers, whole(domain.peers.length));
    tell(steps, "step", domain.step, `${whole(domain.step)} of ${whole(domain.total_steps)}`);
    set(bar.firstChild.lastChild, { width: (100 * done).toFixed(1) });
    tell(copies, "copies", domain.copies, whole(domain.copies));
    tell(state, "state", domain.state, domain.state ?? "");
    set(row, { class: domain.is_done ? "done" : domain.peers.length ? "" : "waiting" });
  });
}

function makeDomain(domain) {
  const bar = svg("svg", { class: "bar", viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" });
  bar.append(svg("rect", { class: "trained", width: 100, height: 4 }), svg("rect", { class: "attested", height: 4 }));
  const cell = (label, ...children) => el("td", { role: "cell", class: "said", "data-label": label }, ...children);
  const cells = [cell("peers"), cell("step"), cell("", bar), cell("copies"), cell("state")];
  return el("tr", { role: "row", "data-domain": domain.domain }, el("th", { scope: "row", role: "rowheader", class: "said" }), ...cells);
}

export function showEvents(list, empty, view) {
  empty.hidden = view.events.length > 0;
  list.hidden = !view.events.length;
  const repeats = new Map(); // alike events of one moment are still events of their own
  const keyOf = (event) => {
    const key = JSON.stringify(event);
    repeats.set(key, (repeats.get(key) ?? 0) + 1);
    return `${key} ${repeats.get(key)}`;
  };
  const newestFirst = view.events.map((event) => ({ event, key: keyOf(event) })).reverse();
  each(list, newestFirst, ({ key }) => key, makeEvent, () => {});
}

function makeEvent({ event }) {
  const date = new Date(1000 * event.unix_s);
  const when = el("time", {}, clock(event.unix_s));
  if (!Number.isNaN(date.getTime())) when.dateTime = date.toISOString();
  const who = event.peer_id ? el("span", { class: "mono" }, short(event.peer_id)) : null;
  const words = tell(el("span", { class: "said" }), "words", event.words, event.words);
  return el("li", { "data-kind": event.kind, title: event.peer_id }, when, el("i", { class: "key", title: event.kind }), who, words);
}

export function showRun(name, run, view) {
  tell(name, "name", view.name, view.name || "a run without a name");
  const parts = [
    ["run_id", `run ${view.run_id.slice(0, 12)}`],
    ["method", view.method],
    ...(view.parameters ? [["parameters", `${count(view.parameters)} parameters`]] : []), // 0: not counted yet
  ];
  each(run, parts, ([field]) => field, () => el("span", { class: "said" }), (span, [field, text]) => {
    tell(span, field, view[field], text);
  });
}
