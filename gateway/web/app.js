// The page: the box, the lookups under way, and what is kept in the browser. What can be
// said without a browser is in logic.js, what is shown in view.js.

import {
  cacheStatus, csvOf, eventParser, findRucs, inspect, MAX_AT_ONCE, portion, recentsOf, remember,
} from "./logic.js";
import * as view from "./view.js";

const { t, el, button } = view;

const PARALLEL = 3;
// Answers that are held come sooner than this; nothing is said of progress before.
const SLOW = 150;
// A lookup repeats itself so often and for waits so long; then it is up to the reader.
const AUTO_RETRIES = 3;
const AUTO_RETRY_WAIT = 15 * 60;
const RETRIED_ALONE = new Set(["blocked", "overloaded", "rate-limited"]);
const NOT_RETRIED = new Set(["invalid", "unauthorized", "forbidden"]);
// How long a stale answer waits for the visit behind it.
const FOLLOW = 90_000;

const page = (id) => document.getElementById(id);
const box = page("q");
const results = page("results");

/* ---- What is kept in the browser ---- */

// Storage may be full, forbidden or absent; the page then does without.
function stored(storage, key, value) {
  try {
    const place = window[storage];
    if (value === undefined) return place.getItem(key);
    if (value === null) place.removeItem(key);
    else place.setItem(key, value);
  } catch {
    // Nothing is lost but a convenience.
  }
  return null;
}

const RECENTS = "rucflow.recientes";
const KEY = "rucflow.clave";

let recents = recentsOf(stored("localStorage", RECENTS));

function showRecents() {
  page("recents").hidden = recents.length === 0;
  page("recents-list").replaceChildren(...recents.map((item) =>
    el("li", {}, el("a", { href: urlOf([item.ruc]), "data-ruc": item.ruc },
      view.number(item.ruc),
      el("span", { class: "recent-name", lang: "es" }, item.name),
      item.fuente === "replica" ? el("span", { class: "recent-mark" }, t("recents.replica")) : null))));
}

function keep(record) {
  recents = remember(recents, { ruc: record.ruc, name: record.razonSocial ?? "", fuente: record.fuente });
  stored("localStorage", RECENTS, JSON.stringify(recents));
  showRecents();
}

page("recents-clear").addEventListener("click", () => {
  recents = [];
  stored("localStorage", RECENTS, null);
  showRecents();
  box.focus();
  toast(t("recents.cleared"));
});

// Another tab looked something up, or cleared the list.
window.addEventListener("storage", (event) => {
  if (event.key !== RECENTS && event.key !== null) return;
  recents = recentsOf(event.newValue);
  showRecents();
});

/* ---- What is said aloud and in passing ---- */

let sayTimer;

/** Has a screen reader say a text, the last one where several come at once. */
function say(text, delay = 100) {
  clearTimeout(sayTimer);
  sayTimer = setTimeout(() => { page("aloud").textContent = text; }, delay);
}

let toastTimer;

function toast(text) {
  page("toast").textContent = text;
  page("toast").classList.add("shown");
  say(text);
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => page("toast").classList.remove("shown"), 2500);
}

/* ---- The box ---- */

function hint(tone, text) {
  page("hint").className = tone;
  page("hint-icon").replaceChildren(...({ good: ["check"], bad: ["alert"] }[tone] ?? []).map(view.icon));
  page("hint-text").textContent = text;
  box.setAttribute("aria-invalid", String(tone === "bad"));
}

// What the hint says of the box. A number that is not complete is no error until it is sent.
function hintOf(seen, sent) {
  switch (seen.kind) {
    case "empty":
      return sent ? ["bad", t("hint.nothing")] : ["", t("hint.start")];
    case "short":
      return [sent ? "bad" : "", view.count(seen.missing, "hint.missing.one", "hint.missing.other")];
    case "long":
      return ["bad", view.count(seen.extra, "hint.extra.one", "hint.extra.other")];
    case "digit":
      return ["bad", t("hint.digit", { got: seen.found[0].ruc[10], expected: seen.found[0].expected })];
    case "valid":
      return ["good", t("hint.valid")];
    case "several":
      return severalHint(seen.found);
    default:
      return ["bad", t("hint.none")];
  }
}

function severalHint(found) {
  const wrong = found.filter(({ ok }) => !ok).length;
  const parts = [t("hint.several", { n: found.length })];
  if (wrong > 0) parts.push(view.count(wrong, "hint.wrong.one", "hint.wrong.other"));
  if (found.length > MAX_AT_ONCE) parts.push(t("hint.portion", { n: MAX_AT_ONCE }));
  return [wrong === found.length ? "bad" : "good", parts.join(" · ")];
}

function judgeBox(sent = false) {
  const seen = inspect(box.value);
  const [tone, text] = hintOf(seen, sent);
  hint(tone, text);
  fitBox();
  return { seen, text, tone };
}

// Where CSS cannot let the box grow with its text, its lines are counted.
function fitBox() {
  if (!CSS.supports("field-sizing", "content")) box.rows = Math.min(6, box.value.split("\n").length);
}

function setBox(text) {
  box.value = text;
  judgeBox();
}

box.addEventListener("input", () => {
  const { seen, text } = judgeBox();
  if (!["empty", "short"].includes(seen.kind)) say(text, 700);
});

box.addEventListener("keydown", (event) => {
  // Shift+Enter begins a line; Enter during the choice of a character belongs to it.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  submit();
});

page("search").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    box.focus();
    box.select();
  } else if (event.key === "Escape" && (!typing || typing === box) && !event.isComposing) {
    if (box.value !== "") setBox("");
    else if (lookups.size > 0) go([]);
    box.focus();
  }
});

function submit() {
  const { seen, text, tone } = judgeBox(true);
  // A single number that is wrong is not asked for; in a list it shows as what it is.
  if (tone === "bad" && seen.kind !== "several") {
    say(text);
    box.focus();
    return;
  }
  const { now, rest } = portion(seen.found);
  go(now);
  if (now.length === 1) {
    box.select();
    return;
  }
  setBox(rest);
  if (rest !== "") hint("", t("hint.rest", { n: MAX_AT_ONCE, rest: seen.found.length - MAX_AT_ONCE }));
}

/* ---- The address of what is shown ---- */

function urlOf(rucs) {
  const old = new URLSearchParams(location.search);
  const query = new URLSearchParams();
  if (old.has("lang")) query.set("lang", old.get("lang"));
  for (const ruc of rucs) query.append("ruc", ruc);
  const text = query.toString();
  return location.pathname + (text && "?" + text);
}

function fromURL() {
  return portion(findRucs(new URLSearchParams(location.search).getAll("ruc").join("\n"))).now;
}

// The link to the other language keeps what is shown.
function aimLanguageLink() {
  const query = new URLSearchParams(location.search);
  query.set("lang", page("language").hreflang);
  page("language").href = location.pathname + "?" + query;
}

window.addEventListener("popstate", () => present(fromURL(), true));

// A plain click on a number shows it here; with a modifier the browser does what it does.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-ruc]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  setBox(link.dataset.ruc);
  go([{ ruc: link.dataset.ruc, ok: true }]);
  scrollTo({ top: 0 });
  box.focus({ preventScroll: true });
});

/* ---- Lookups ---- */

// By number, in the order shown. A lookup is
//   ruc, expected  the number, and its right check digit where it is wrong
//   phase          invalid | waiting | asking | done | failed
//   answer         the last answer: {record} or {missing}, and meta: where from, how old
//   problem        why the last attempt brought none
//   since, slow    when it was asked, and whether it takes long enough to say so
//   stage          the last progress event
//   retryAt, auto  when it may be repeated, and whether that happens by itself
//   following      until when a stale answer waits for the visit behind it
const lookups = new Map();

// Ends whatever is under way when something else is asked for.
let batch = new AbortController();

/** Shows the numbers and makes them the page's address. */
function go(found) {
  const url = urlOf(found.map(({ ruc }) => ruc));
  if (url !== location.pathname + location.search) history.pushState(null, "", url);
  present(found, false);
}

/** Shows the numbers; fill puts them into the box as well. */
function present(found, fill) {
  batch.abort();
  batch = new AbortController();
  lookups.clear();
  for (const { ruc, ok, expected } of found) {
    lookups.set(ruc, { ruc, expected, phase: ok ? "waiting" : "invalid", retries: 0 });
  }
  if (fill) setBox(found.length === 1 ? found[0].ruc : "");
  page("access").hidden = true;
  aimLanguageLink();
  lay();
  work();
  listen();
}

const busy = (lookup) => lookup.phase === "waiting" || lookup.phase === "asking";
const several = () => lookups.size > 1;

/** Starts as many of the waiting lookups as may run at once. */
function work() {
  const all = [...lookups.values()];
  let room = PARALLEL - all.filter(({ phase }) => phase === "asking").length;
  for (const lookup of all) {
    if (lookup.phase === "waiting" && room-- > 0) run(lookup);
  }
}

async function run(lookup) {
  const { signal } = batch;
  Object.assign(lookup, { phase: "asking", since: Date.now(), slow: false, stage: null, problem: null, retryAt: null });
  render(lookup);
  const slow = setTimeout(() => {
    lookup.slow = true;
    render(lookup);
    listen();
    if (!several()) say(view.progress(lookup.stage));
  }, SLOW);
  const outcome = await ask(lookup.ruc, lookup.anew, signal);
  clearTimeout(slow);
  if (signal.aborted) return;
  settle(lookup, outcome);
  work();
  listen();
}

function headers(more) {
  const key = keyKept();
  return key ? { ...more, "X-Api-Key": key } : more;
}

/** Asks for a number: {answer} or {problem}. */
async function ask(ruc, anew, signal) {
  try {
    const response = await fetch("/v1/ruc/" + ruc, {
      signal,
      // The gateway's caches know where an answer comes from and when it was forgotten; the
      // browser's does not. A browser that must not use its own says "no-cache" to the
      // gateway too, which would be a visit, unless the header is there already.
      cache: "no-store",
      headers: headers({ "Cache-Control": anew ? "no-cache" : "no-transform" }),
    });
    const body = await response.json().catch((error) => {
      if (signal.aborted) throw error;
      return {}; // something between here and the gateway answered in its own words
    });
    const said = (name) => response.headers.get(name);
    const meta = { ...cacheStatus(said("Cache-Status")), age: Number(said("Age") ?? 0), at: Date.now() };
    if (response.ok && body.ruc === ruc) return { answer: { record: body, meta } };
    if (body.code === "not-found") return { answer: { missing: body, meta } };
    return { problem: { code: "other", retryAfter: Number(said("Retry-After") ?? 0), ...body } };
  } catch {
    return { problem: { code: "network" } };
  }
}

function settle(lookup, { answer, problem }) {
  lookup.anew = false;
  if (answer) {
    Object.assign(lookup, { phase: "done", answer, retries: 0, following: answer.meta.begun ? Date.now() + FOLLOW : null });
    if (answer.record) keep(answer.record);
  } else {
    fail(lookup, problem);
    if (problem.code === "unauthorized") {
      for (const other of lookups.values()) {
        if (other.phase !== "waiting") continue;
        fail(other, problem);
        render(other);
      }
      askForKey();
    }
  }
  render(lookup);
  tell(lookup);
}

function fail(lookup, problem) {
  const wait = problem.retryAfter ?? 0;
  const auto = RETRIED_ALONE.has(problem.code) && wait > 0 && wait <= AUTO_RETRY_WAIT && lookup.retries < AUTO_RETRIES;
  Object.assign(lookup, { phase: "failed", problem, auto, retryAt: wait > 0 ? Date.now() + wait * 1000 : null });
}

// What is said aloud when a lookup ends: each result where one was asked for, the sum where
// many were.
function tell(lookup) {
  const all = [...lookups.values()];
  if (several()) {
    if (all.some(busy)) return;
    say(t("list.finished", { n: all.filter(({ answer }) => answer?.record).length, of: all.length }));
  } else if (lookup.phase === "failed") {
    say(view.problemTitle(lookup.problem));
  } else if (lookup.answer.record) {
    const { razonSocial, estado, condicion } = lookup.answer.record;
    say([razonSocial, estado, condicion].filter(Boolean).join(", "));
  } else {
    say(t("missing.title"));
  }
}

function again(lookup, anew = false) {
  if (busy(lookup)) return;
  Object.assign(lookup, { phase: "waiting", anew });
  render(lookup);
  work();
}

/* ---- Progress, by server-sent events ---- */

// One stream for all lookups under way. It is read by fetch, because EventSource sends no
// key. Without it nothing is lost but the word on how far a visit is.
let stream = null;

function listen() {
  const all = [...lookups.values()];
  const wanted = all.filter((l) => (l.phase === "asking" && l.slow) || l.following).map(({ ruc }) => ruc);
  if (stream && (wanted.length === 0 || wanted.some((ruc) => !stream.rucs.includes(ruc)))) {
    stream.control.abort();
    stream = null;
  }
  if (stream || wanted.length === 0) return;
  // Those that wait for their turn are in already, so that one stream lasts for the list.
  const rucs = all.filter((l) => busy(l) || l.following).map(({ ruc }) => ruc);
  stream = { rucs, control: new AbortController() };
  follow(stream);
}

async function follow({ rucs, control: { signal } }) {
  const query = new URLSearchParams(rucs.map((ruc) => ["ruc", ruc]));
  let last = "";
  for (let attempt = 0; attempt < 5 && !signal.aborted; attempt++) {
    try {
      const response = await fetch("/v1/eventos?" + query, {
        signal,
        headers: headers({ Accept: "text/event-stream", ...(last && { "Last-Event-ID": last }) }),
      });
      if (response.status >= 400 && response.status < 500) return;
      if (response.ok) {
        const push = eventParser();
        const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
        for (let piece; !(piece = await reader.read()).done; ) {
          for (const event of push(piece.value)) {
            last = event.id || last;
            heard(event);
          }
        }
      }
    } catch {
      // Cut off, or ended by us: the loop's condition tells them apart.
    }
    await new Promise((resolve) => setTimeout(resolve, 1000 * 2 ** attempt));
  }
}

function heard({ event, data }) {
  let said;
  try {
    said = JSON.parse(data);
  } catch {
    return;
  }
  const lookup = lookups.get(said.ruc);
  if (!lookup) return;
  if (event === "progress" && busy(lookup)) {
    lookup.stage = said;
    render(lookup);
    if (!several()) say(view.progress(said));
  } else if (lookup.following && (event === "resolved" || event === "failed")) {
    lookup.following = null;
    lookup.answer.meta.begun = false;
    if (event === "resolved") {
      const meta = { source: "visit", begun: false, age: 0, at: Date.now() };
      lookup.answer = said.code ? { missing: said, meta } : { record: said, meta };
      if (said.code === undefined) keep(said);
      tell(lookup);
    }
    render(lookup);
    listen();
  }
}

/* ---- Cards ---- */

/** Lays out the results anew: nothing, one card, or a list. */
function lay() {
  const all = [...lookups.values()];
  page("intro").hidden = all.length > 0;
  document.title = all.length === 1 ? `${all[0].ruc} · rucflow` : t("page.title");
  for (const lookup of all) lookup.node = el("div");
  if (several()) {
    results.replaceChildren(
      el("div", { class: "list-head" },
        el("h2", {}, t("list.title", { n: all.length })),
        el("p", { class: "tally", id: "tally" }),
        el("p", { class: "actions" },
          button("copy-json", "copy", t("copy.json"), () => copyJSON(all)),
          button("copy-csv", "copy", t("copy.csv"), () => copyCSV(all)),
          button("print", "print", t("print"), () => window.print()))),
      el("ol", { class: "rows" }, all.map(({ node }) => el("li", {}, node))));
  } else {
    results.replaceChildren(...all.map(({ node }) => node));
  }
  all.forEach(render);
}

function render(lookup) {
  const old = lookup.node;
  // The focus stays on the button that was pressed, or on the card if that is gone.
  const focused = old.contains(document.activeElement) ? document.activeElement.dataset.act ?? "" : null;
  lookup.node = several() ? row(lookup) : card(lookup);
  view.tick(lookup.node, Date.now());
  old.replaceWith(lookup.node);
  if (focused !== null) (lookup.node.querySelector(`[data-act="${focused}"]`) ?? lookup.node).focus({ preventScroll: true });
  if (several()) {
    const all = [...lookups.values()];
    page("tally").textContent = t("list.tally", { n: all.filter((l) => !busy(l)).length, of: all.length });
  } else if (lookup.answer?.record) {
    document.title = `${lookup.answer.record.razonSocial} · ${lookup.ruc} · rucflow`;
  }
}

function card(lookup) {
  return el("article", { class: "card", tabindex: "-1", "aria-busy": String(busy(lookup)) },
    lookup.answer?.record ? full(lookup) : empty(lookup));
}

function full(lookup) {
  const { record, meta } = lookup.answer;
  return [
    view.warnings(record, meta),
    el("header", {}, view.title(record, 2)),
    view.standing(record),
    origin(lookup),
    view.sections(record, 3),
  ];
}

function empty(lookup) {
  const mark = tone(lookup);
  return [
    el("p", { class: "number" }, el("abbr", { title: t("record.rucLong") }, "RUC"), view.number(lookup.ruc)),
    el("h2", { class: `name ${mark}` }, mark ? view.icon("alert") : null, headline(lookup)),
    unanswered(lookup),
  ];
}

// A lookup in a list: one line that opens when there is more to read.
function row(lookup) {
  const { answer } = lookup;
  const record = answer?.record;
  const line = [
    view.number(lookup.ruc),
    el("h3", { class: "row-name", lang: record ? "es" : null }, record ? record.razonSocial : headline(lookup)),
    el("span", { class: "row-state" },
      record ? view.mainBadges(record) : null,
      record?.fuente === "replica" ? el("span", { class: "row-mark" }, t("recents.replica")) : null,
      record && answer.meta.source === "stale" ? el("span", { class: "row-mark" }, t("stale.short")) : null,
      busy(lookup) && lookup.slow ? view.elapsed(lookup.since) : null,
      lookup.phase === "failed" && lookup.retryAt ? view.countdown(lookup.retryAt) : null),
  ];
  if (!answer && busy(lookup)) return el("div", { class: "row", "aria-busy": "true", tabindex: "-1" }, line);
  const rest = record
    ? [
      view.warnings(record, answer.meta),
      record.nombreComercial ? el("p", { class: "trade", lang: "es" }, record.nombreComercial) : null,
      view.standing(record),
      origin(lookup),
      view.sections(record, 4),
    ]
    : unanswered(lookup);
  return el("details", {
    class: `row ${tone(lookup)}`,
    tabindex: "-1",
    open: lookup.open,
    "aria-busy": String(busy(lookup)),
    toggle: (event) => { lookup.open = event.target.open; },
  }, el("summary", { "data-act": "open" }, line, view.icon("chevron")), el("div", { class: "row-body" }, rest));
}

function tone({ phase, answer }) {
  if (phase === "failed" || phase === "invalid") return "bad";
  return answer?.missing ? "warn" : "";
}

// The heading of a lookup without a record.
function headline(lookup) {
  if (lookup.phase === "invalid") return t("invalid.title");
  if (lookup.phase === "failed") return view.problemTitle(lookup.problem);
  if (lookup.answer?.missing) return t("missing.title");
  if (lookup.phase === "waiting" && several()) return t("progress.waiting");
  return lookup.slow ? view.progress(lookup.stage) : t("progress.looking");
}

// What is below that heading.
function unanswered(lookup) {
  if (lookup.phase === "invalid") {
    return el("p", {}, t("invalid.text", { got: lookup.ruc[10], expected: lookup.expected }));
  }
  if (lookup.phase === "failed") return [view.problemText(lookup.problem), repeat(lookup)];
  const { answer } = lookup;
  if (answer?.missing) {
    return [answer.missing.fuente === "replica" ? view.invented() : null, el("p", {}, t("missing.do")), origin(lookup)];
  }
  return [
    el("p", { class: "provenance" }, el("span", { class: "pulse" }),
      lookup.slow ? [t("progress.elapsed"), " ", view.elapsed(lookup.since)] : null),
    steps(lookup),
    el("div", { class: "bones", "aria-hidden": "true" }, [1, 2, 3, 4].map(() => el("span"))),
  ];
}

// The way of a visit; the present step is marked, none is foretold.
function steps({ stage, slow }) {
  const at = stage?.stage === "visiting" ? 1 : stage ? 0 : -1;
  const names = [t("step.queue"), t("step.visit"), t("step.record")];
  return el("ol", { class: slow ? "steps" : "steps held" }, names.map((name, i) =>
    el("li", { class: i < at ? "past" : null, "aria-current": i === at ? "step" : null }, name)));
}

// Where the answer came from, or how it goes with asking again, and what can be done with it.
function origin(lookup) {
  const held = lookup.answer.record;
  return el("div", { class: "origin" }, originLine(lookup), el("p", { class: "actions" },
    button("refresh", "refresh", t("refresh"), () => again(lookup, true)),
    held ? button("copy-json", "copy", t("copy.json"), () => copyJSON([lookup])) : null,
    held ? button("copy-csv", "copy", t("copy.csv"), () => copyCSV([lookup])) : null,
    held && !several() ? button("print", "print", t("print"), () => window.print()) : null));
}

function originLine(lookup) {
  if (busy(lookup)) {
    return el("p", { class: "provenance" }, el("span", { class: "pulse" }),
      el("span", {}, view.progress(lookup.stage), " ", lookup.slow ? view.elapsed(lookup.since) : null));
  }
  if (lookup.phase === "failed") {
    return el("div", {},
      el("p", { class: "provenance bad" }, view.icon("alert"),
        el("span", {}, t("refresh.failed"), " ", view.problemTitle(lookup.problem), ".")),
      repeat(lookup));
  }
  return view.provenance(lookup.answer.meta);
}

// When and how a failed lookup may be repeated.
function repeat(lookup) {
  if (NOT_RETRIED.has(lookup.problem.code)) return null;
  if (!lookup.retryAt) {
    return el("p", { class: "actions" },
      button("retry", "refresh", t("retry.now"), () => again(lookup, lookup.answer !== undefined), "primary"));
  }
  return el("p", { class: "actions" },
    el("span", {}, lookup.auto ? t("retry.auto") : t("retry.wait"), " ", view.countdown(lookup.retryAt)),
    lookup.auto ? button("cancel", null, t("retry.cancel"), () => stay(lookup)) : null);
}

function stay(lookup) {
  lookup.auto = false;
  render(lookup);
}

/* ---- Time goes on ---- */

function everySecond() {
  const now = Date.now();
  view.tick(document, now);
  for (const lookup of lookups.values()) {
    if (lookup.phase === "failed" && lookup.retryAt && lookup.retryAt <= now) {
      // A page that nobody looks at asks nothing.
      if (lookup.auto && document.visibilityState === "visible") {
        lookup.retries++;
        again(lookup, lookup.answer !== undefined);
      } else if (!lookup.auto) {
        lookup.retryAt = null;
        render(lookup);
      }
    }
    if (lookup.following && lookup.following <= now) {
      lookup.following = null;
      lookup.answer.meta.begun = false;
      render(lookup);
      listen();
    }
  }
}

setInterval(everySecond, 1000);

/* ---- Copying and printing ---- */

// An answer as data: the record, or that there is none.
const dataOf = ({ record, missing }) =>
  record ?? { ruc: missing.ruc, encontrado: false, obtenidoEn: missing.obtenidoEn, fuente: missing.fuente };

const answered = (list) => list.filter(({ answer }) => answer).map(({ answer }) => dataOf(answer));

function copyJSON(list) {
  const data = answered(list);
  copy(JSON.stringify(list.length > 1 ? data : data[0], null, 2), data.length);
}

function copyCSV(list) {
  const data = answered(list);
  copy(csvOf(data), data.length);
}

async function copy(text, n) {
  if (n === 0) {
    toast(t("copy.nothing"));
    return;
  }
  toast((await written(text)) ? view.count(n, "copy.done.one", "copy.done.other") : t("copy.failed"));
}

async function written(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // The clipboard is for pages over TLS and on localhost; the old way is for the rest.
    const focused = document.activeElement;
    const field = el("textarea", { class: "unseen", "aria-hidden": "true", tabindex: "-1" });
    field.value = text;
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    focused?.focus({ preventScroll: true });
    return done;
  }
}

let opened = [];

window.addEventListener("beforeprint", () => {
  opened = [...results.querySelectorAll("details:not([open])")];
  for (const details of opened) details.open = true;
  page("printed-from").textContent = location.href;
});

window.addEventListener("afterprint", () => {
  for (const details of opened) details.open = false;
});

/* ---- The key ---- */

// Where storage is unavailable the key lasts as long as the page.
let keyInHand = null;

const keyKept = () => stored("sessionStorage", KEY) ?? stored("localStorage", KEY) ?? keyInHand;

function askForKey() {
  page("access-wrong").hidden = !keyKept();
  page("access").hidden = false;
  page("access-key").value = "";
  page("access-key").focus();
}

function setKey(key, remembered) {
  keyInHand = key;
  stored("sessionStorage", KEY, key);
  stored("localStorage", KEY, remembered ? key : null);
  page("key-forget").hidden = !key;
}

page("access-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = page("access-key").value.trim();
  if (key === "") return;
  setKey(key, page("access-keep").checked);
  page("access").hidden = true;
  box.focus();
  for (const lookup of lookups.values()) {
    if (lookup.problem?.code === "unauthorized") lookup.phase = "waiting";
  }
  lay();
  work();
});

page("key-forget").addEventListener("click", () => {
  setKey(null, false);
  box.focus();
  toast(t("key.forgotten"));
});

page("key-forget").hidden = !keyKept();

/* ---- The status strip ---- */

const POLL = 15_000;
const POLL_FAILURES = 5;
const polling = { timer: null, failures: 0, sunat: null };

async function poll() {
  clearTimeout(polling.timer);
  try {
    const response = await fetch("/health", { cache: "no-store" });
    showHealth(await response.json());
    polling.failures = 0;
  } catch {
    polling.failures++;
    showFault();
  }
  if (document.visibilityState === "visible" && polling.failures < POLL_FAILURES) {
    polling.timer = setTimeout(poll, POLL * 2 ** polling.failures);
  }
}

function showHealth(health) {
  const paused = health.sunat === "paused";
  const stopped = health.scrapers === 0 || health.nats !== "connected";
  const sunat = paused ? t("status.paused") : stopped ? t("status.stopped") : t("status.on");
  page("status-fault").hidden = true;
  page("status-list").hidden = false;
  page("status-sunat").className = paused ? "warn" : stopped ? "bad" : "good";
  page("status-sunat").replaceChildren(sunat);
  if (paused && health.pauseSeconds) {
    page("status-sunat").append(" ", view.countdown(Date.now() + health.pauseSeconds * 1000));
  }
  page("status-queue").textContent = health.queue ?? t("status.unknown");
  page("status-hits").textContent = typeof health.hitRate === "number" ? view.percent(health.hitRate) : t("status.unknown");
  view.tick(page("status-sunat"), Date.now());
  if (polling.sunat !== null && polling.sunat !== sunat) say(t("status.sunat") + ": " + sunat);
  polling.sunat = sunat;
}

function showFault() {
  page("status-list").hidden = true;
  page("status-fault").hidden = false;
  page("status-fault-text").textContent = polling.failures < POLL_FAILURES ? t("status.fault") : t("status.givenUp");
  page("status-retry").hidden = polling.failures < POLL_FAILURES;
}

page("status-retry").addEventListener("click", () => {
  polling.failures = 0;
  poll();
});

document.addEventListener("visibilitychange", () => {
  clearTimeout(polling.timer);
  if (document.visibilityState === "visible" && polling.failures < POLL_FAILURES) poll();
});

/* ---- Begin ---- */

const asked = fromURL();
showRecents();
present(asked, asked.length > 0);
// What was typed before this script came, or kept by the browser over a reload.
if (asked.length === 0) judgeBox();
// On a phone the focus would bring up the keyboard over the page.
if (asked.length === 0 && matchMedia("(pointer: fine)").matches) box.focus();
poll();
