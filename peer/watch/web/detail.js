// One peer: in a few words where somebody points, and all that is known once it is chosen.

import { el, tell } from "./dom.js";
import { bytes, condition, count, duration, loss, percent, plural, rate, short, waitWords, whole } from "./format.js";

const LAST_EXCHANGES = 4;
const MAX_LINES = 8;
const TIP_PX = 200;

/** Says the most important of the peer at `spot`, beside it: further in, where there is room. */
export function showTip(tip, view, peerId, spot) {
  const peer = spot && view.peers.find((each) => each.peer_id === peerId);
  tip.hidden = !peer;
  if (!peer) return;
  const lines = [condition(peer).words + (peer.domain ? ` in ${peer.domain}` : "")];
  if (peer.has_report) {
    lines.push(`${count(peer.tokens_per_s)} tokens/s, loss ${loss(peer.loss_bits_per_byte)}`);
    lines.push(`utilisation ${percent(peer.utilisation_frac)}`);
  }
  if (peer.waits.length) lines.push(`waits for ${waitWords(peer.waits[0])}`);
  tip.replaceChildren(el("strong", { class: "mono" }, short(peerId)), ...lines.map((line) => el("span", { class: "said" }, line)));
  tip.style.left = `${Math.max(0, Math.min(spot.size - TIP_PX, spot.size / 2 + spot.x - TIP_PX / 2))}px`;
  const [above, below] = [spot.size / 2 - spot.y + 24, spot.size / 2 + spot.y + 24];
  tip.style.top = spot.y < 0 ? `${below}px` : "auto";
  tip.style.bottom = spot.y < 0 ? "auto" : `${above}px`;
}

export function showDetail(card, view, peerId, onClose) {
  const peer = view.peers.find((each) => each.peer_id === peerId);
  const news = JSON.stringify([peer, peer && exchanges(view, peerId)]);
  if (card.news === news) return; // what somebody reads or copies stays where it is
  card.news = news;
  card.hidden = !peer;
  card.dataset.peer = peer ? peer.peer_id : "";
  if (!peer) {
    card.replaceChildren();
    return;
  }
  const title = el(
    "h2",
    {},
    el("span", { class: "mono" }, short(peer.peer_id)),
    " ",
    el("span", { class: "muted small" }, condition(peer).words),
  );
  const close = el("button", { type: "button", class: "quiet" }, "Close");
  close.addEventListener("click", onClose);
  const rows = facts(peer).map(([term, field, value, text]) =>
    el("div", {}, el("dt", {}, term), tell(el("dd", { class: "said" }), field, value, text)),
  );
  const lists = [
    list("Waits for", peer.waits.map(waitWords)),
    list("Refused", (peer.contribution?.refused ?? []).map(([reason, number]) => `${whole(number)} × ${reason}`)),
    list("Connected to", ties(peer)),
    list("Last exchanges", exchanges(view, peer.peer_id)),
    list("It says", peer.notices),
  ].filter(Boolean);
  const id = el("p", { class: "mono muted whole-id" }, peer.peer_id);
  const head = el("div", { class: "detail-head" }, el("div", {}, title, id), close);
  card.replaceChildren(head, el("dl", {}, ...rows), el("div", { class: "lists" }, ...lists));
}

function facts(peer) {
  const rows = [];
  const add = (term, field, value, text) => rows.push([term, field, value, text]);
  const hasModel = peer.role === "peer" || peer.role === "holder";
  if (peer.domain) add("domain", "domain", peer.domain, peer.domain);
  if (hasModel) {
    add("step, round", "step", peer.step, `${whole(peer.step)}, ${whole(peer.round)}`);
    add("tokens", "tokens", peer.tokens, count(peer.tokens));
  }
  if (peer.has_report) {
    if (peer.phase) add("phase", "phase", peer.phase, peer.phase);
    add("speed", "tokens_per_s", peer.tokens_per_s, `${count(peer.tokens_per_s)} tokens/s`);
    add("training loss", "loss_bits_per_byte", peer.loss_bits_per_byte, loss(peer.loss_bits_per_byte));
    const found = peer.validation_bits_per_byte;
    add("validation loss", "validation_bits_per_byte", found, loss(found));
    add("utilisation", "utilisation_frac", peer.utilisation_frac, percent(peer.utilisation_frac));
    add("sent", "sent_bytes", peer.sent_bytes, bytes(peer.sent_bytes));
    add("received", "received_bytes", peer.received_bytes, bytes(peer.received_bytes));
  }
  if (peer.contribution) {
    const { used_tokens: used, used_rounds: rounds } = peer.contribution;
    add("used by the swarm", "used_tokens", used, `${count(used)} in ${plural(rounds, "round")}`);
    add("attested", "attested_tokens", peer.attested_tokens, `${count(peer.attested_tokens)} by ${whole(peer.attested_by)}`);
    add("late", "late_rounds", peer.contribution.late_rounds, plural(peer.contribution.late_rounds, "round"));
  }
  add("reach", "reach", peer.reach, peer.reach);
  if (peer.up_bps || peer.down_bps) add("link up, down", "up_bps", peer.up_bps, `${rate(peer.up_bps)}, ${rate(peer.down_bps)}`);
  if (peer.software) add("software", "software", peer.software, peer.software);
  return rows;
}

function ties(peer) {
  return peer.ties.map(({ peer_id: other, way, round_trip_s: took }) => {
    const worse = way === "direct" ? "" : `, ${way}`;
    return `${short(other)}${worse}${took === null ? "" : `, ${duration(took)}`}`;
  });
}

function exchanges(view, peerId) {
  const membersOf = (each) => [each.peer_id, ...each.partners]; // one of them tells of it
  const ours = view.exchanges.filter((each) => membersOf(each).includes(peerId)).slice(-LAST_EXCHANGES).reverse();
  return ours.map((each) => {
    const others = membersOf(each).filter((other) => other !== peerId).map(short).join(", ");
    const why = each.reason ? ` (${each.reason})` : "";
    return `round ${each.round}, part ${each.fragment} with ${others}: ${each.outcome}${why}, ${duration(each.took_s)}`;
  });
}

function list(title, lines) {
  if (!lines.length) return null;
  const shown = lines.slice(0, MAX_LINES);
  if (shown.length < lines.length) shown.push(`and ${lines.length - shown.length} more`);
  return el("div", {}, el("h4", {}, title), el("ul", {}, ...shown.map((line) => el("li", { class: "said" }, line))));
}
