// What the page shows: words, dates, and the pieces of a card as DOM nodes. Functions here
// make nodes and return them; what happens when a button is pressed is the caller's. All
// text of a record goes in by textContent, never as markup.

import { ago, clock, groups, toneOfCondicion, toneOfEstado } from "./logic.js";

const lang = document.documentElement.lang;
const texts = JSON.parse(document.getElementById("texts").textContent);

/** The text of a key, with {name} replaced by values.name. */
export function t(key, values = {}) {
  return texts[key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** The text for one or for several. */
export function count(n, one, other) {
  return t(n === 1 ? one : other, { n });
}

/**
 * An element. Attributes that are null, undefined or false are left out; functions are
 * listeners ("click"); children are nodes, text, or nothing.
 */
export function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(key, value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

/** A drawing out of the sprite in index.html. It is beside words, so it says nothing itself. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", "#i-" + name);
  svg.append(use);
  return svg;
}

/** A number in its parts. The gaps are margins, so that copying it gives eleven digits. */
export function number(ruc) {
  return el("span", { class: "ruc", translate: "no" }, groups(ruc).map((part) => el("span", {}, part)));
}

export function button(act, iconName, label, press, kind = "") {
  return el("button", { type: "button", class: `button ${kind}`, "data-act": act, click: press },
    iconName ? icon(iconName) : null, label);
}

// Records are Spanish on every page; a screen reader is told so where the page is not.
const spanish = lang === "es" ? {} : { lang: "es" };

const relative = new Intl.RelativeTimeFormat(lang, { numeric: "always" });
const locale = lang === "es" ? "es-PE" : lang;
const days = new Intl.DateTimeFormat(locale, { dateStyle: "long", timeZone: "UTC" });
const moments = new Intl.DateTimeFormat(locale, { dateStyle: "long", timeStyle: "short", timeZone: "America/Lima" });
const percents = new Intl.NumberFormat(locale, { style: "percent", maximumFractionDigits: 0 });

export const percent = (share) => percents.format(share);

function day(iso) {
  return iso ? el("time", { datetime: iso }, days.format(new Date(iso))) : null;
}

function moment(iso) {
  return el("time", { datetime: iso }, t("time.lima", { moment: moments.format(new Date(iso)) }));
}

/** An age that grows while one looks at it: refreshed by tick. */
export function age(answeredAt, seconds) {
  return el("span", { "data-age": answeredAt - seconds * 1000 });
}

/** Seconds since a moment, and seconds until one; refreshed by tick. */
export const elapsed = (from) => el("span", { class: "elapsed", "data-since": from });
export const countdown = (until) => el("span", { class: "elapsed", "data-until": until });

/** Brings every running time below root up to date. */
export function tick(root, now) {
  const each = (name, textOf) => {
    for (const node of root.querySelectorAll(`[data-${name}]`)) {
      const text = textOf((now - Number(node.dataset[name])) / 1000);
      if (node.textContent !== text) node.textContent = text;
    }
  };
  each("since", (s) => clock(Math.floor(s)));
  each("until", (s) => clock(-s));
  each("age", (s) => relative.format(...ago(s)));
}

const TONE_ICONS = { good: "check", warn: "alert", bad: "cross" };

function badge(tone, word, label) {
  return el("span", { class: `badge ${tone}` }, icon(TONE_ICONS[tone]),
    el("span", { class: "unseen" }, label + ": "), el("span", spanish, word));
}

export function mainBadges(record) {
  return [
    record.estado ? badge(toneOfEstado(record), record.estado, t("record.estado")) : null,
    record.condicion ? badge(toneOfCondicion(record), record.condicion, t("record.condicion")) : null,
  ];
}

// Rules that change how one invoices a taxpayer, as words of their own.
function duties(record) {
  return [
    record.agenteRetencion ? t("record.retencion") : null,
    record.agentePercepcion ? t("record.percepcion") : null,
    record.buenContribuyente ? t("record.buen") : null,
    record.afectoNuevoRus ? t("record.nuevoRus") : null,
  ].filter(Boolean).map((word) => el("span", { class: "badge plain" }, word));
}

/** A message with a drawing: tone is info, warn or bad. */
export function notice(tone, ...content) {
  return el("div", { class: `notice ${tone}` }, icon(tone === "info" ? "info" : "alert"), el("div", {}, content));
}

const SOURCES = {
  memory: "source.memory",
  redis: "source.redis",
  file: "source.file",
  stream: "source.stream",
  stale: "source.stale",
  visit: "source.visit",
  joined: "source.joined",
  unknown: "source.unknown",
};

/** Where an answer came from and how old it is. */
export function provenance(meta) {
  const fresh = meta.source === "visit" || meta.source === "joined";
  return el("p", { class: "provenance" }, icon(fresh ? "bolt" : "clock"),
    el("span", {}, t(SOURCES[meta.source]), " · ", age(meta.at, meta.age)));
}

export const invented = () => el("p", { class: "invented" }, icon("flask"), t("record.replica"));

/** What must be said before the record is read: invented, old, and SUNAT's own notices. */
export function warnings(record, meta) {
  return [
    record.fuente === "replica" ? invented() : null,
    meta.source === "stale"
      ? notice("warn", el("p", {}, el("strong", {}, t("stale.title"), " "), age(meta.at, meta.age), "."),
          el("p", {}, meta.begun ? t("stale.begun") : t("stale.why")))
      : null,
  ];
}

function notices(record) {
  const said = [...record.avisos, ...(record.condicionNota ? [record.condicionNota] : [])];
  return said.map((text) => notice(record.activo && record.habido ? "info" : "warn", el("p", spanish, text)));
}

/** The name and what kind of taxpayer it is. level is that of the heading. */
export function title(record, level) {
  return [
    el("p", { class: "number" }, el("abbr", { title: t("record.rucLong") }, "RUC"), number(record.ruc)),
    el(`h${level}`, { class: "name", ...spanish }, record.razonSocial ?? t("record.noName")),
    record.nombreComercial ? el("p", { class: "trade", ...spanish }, record.nombreComercial) : null,
  ];
}

/** Whether one can deal with the taxpayer, and what SUNAT says before anything else. */
export function standing(record) {
  return [
    el("p", { class: "badges" }, mainBadges(record), duties(record),
      record.tipoContribuyente ? el("span", { class: "kind", ...spanish }, record.tipoContribuyente) : null),
    notices(record),
  ];
}

/** The rest of a record, in sections. level is that of their headings. */
export function sections(record, level) {
  return [
    el("div", { class: "sections" },
      section(level, t("record.address"), address(record), "wide"),
      section(level, t("record.facts"), facts(record), "wide"),
      section(level, t("record.activities"), activities(record.actividadesEconomicas), "wide"),
      section(level, t("record.vouchers"), lines(record.comprobantesPago)),
      section(level, t("record.electronicVouchers"), dated(record.comprobantesElectronicos, "tipo")),
      section(level, t("record.electronic"), dated(record.sistemaEmisionElectronica, "sistema")),
      section(level, t("record.registers"), lines(record.padrones))),
    el("p", { class: "footnote" },
      t("record.obtained"), " ", moment(record.obtenidoEn),
      record.fechaConsultaSunat ? [". ", t("record.printed"), " ", moment(record.fechaConsultaSunat)] : null, "."),
  ];
}

function section(level, heading, content, kind = "") {
  return el("section", { class: kind }, el(`h${level}`, {}, heading), content);
}

const nothing = (text = t("record.none")) => el("p", { class: "nothing" }, text);

const digits = (text) => el("span", { class: "digits", translate: "no" }, text);

function address(record) {
  if (!record.domicilioFiscal) {
    return nothing(record.tipoPersona === "natural" ? t("record.addressNatural") : t("record.addressNone"));
  }
  if (!record.direccion || !record.distrito) return el("p", { class: "address", ...spanish }, record.domicilioFiscal);
  const place = [record.distrito, record.provincia, record.departamento].filter(Boolean);
  return el("div", { class: "address" },
    el("p", spanish, record.direccion),
    el("p", { class: "place" }, el("span", spanish, place.join(", ")),
      record.ubigeo ? el("span", {}, t("record.ubigeo"), " ", digits(record.ubigeo)) : null));
}

function facts(record) {
  const rows = [
    [t("record.registered"), day(record.fechaInscripcion)],
    [t("record.started"), day(record.fechaInicioActividades)],
    [t("record.ended"), day(record.fechaBaja)],
    [t("record.document"), record.tipoDocumento],
    [t("record.issuing"), record.sistemaEmisionComprobante],
    [t("record.accounting"), record.sistemaContabilidad],
    [t("record.trade"), record.actividadComercioExterior],
    [t("record.rus"), { true: t("yes"), false: t("no") }[record.afectoNuevoRus]],
    [t("record.issuerSince"), day(record.emisorElectronicoDesde)],
    [t("record.ple"), day(record.afiliadoPleDesde)],
  ];
  const filled = rows.filter(([, value]) => value);
  return el("dl", { class: "facts" }, filled.map(([name, value]) =>
    el("div", {}, el("dt", {}, name), el("dd", typeof value === "string" ? spanish : {}, value))));
}

function activities(list) {
  if (list.length === 0) return nothing();
  return el("ol", { class: "activities" }, list.map((a) =>
    el("li", {},
      el("span", { class: "ciiu digits", translate: "no" }, el("span", { class: "unseen" }, "CIIU "), a.ciiu),
      el("span", spanish, a.descripcion),
      a.orden === 0 ? el("span", { class: "principal" }, t("record.principal")) : null)));
}

function lines(list) {
  return list.length === 0 ? nothing() : el("ul", { class: "lines", ...spanish }, list.map((text) => el("li", {}, text)));
}

function dated(list, name) {
  if (list.length === 0) return nothing();
  return el("ul", { class: "dated" }, list.map((item) =>
    el("li", {}, el("span", spanish, item[name]),
      item.desde ? el("span", { class: "since" }, t("record.since"), " ", day(item.desde)) : null)));
}

/** How far a visit is, in words. */
export function progress(stage) {
  if (!stage) return t("progress.asking");
  if (stage.stage === "queued") {
    if (!stage.position) return t("progress.queued");
    return stage.position === 1 ? t("progress.next") : t("progress.nth", { n: stage.position });
  }
  return stage.attempt > 1 ? t("progress.attempt", { n: stage.attempt, of: stage.attempts }) : t("progress.visiting");
}

// What to say of an error and what to do about it.
const ERRORS = {
  invalid: ["error.invalid", "error.invalid.do"],
  overloaded: ["error.overloaded", "error.overloaded.do"],
  timeout: ["error.timeout", "error.timeout.do"],
  unavailable: ["error.unavailable", "error.unavailable.do"],
  blocked: ["error.blocked", "error.blocked.do"],
  changed: ["error.changed", "error.changed.do"],
  "not-held": ["error.notHeld", "error.notHeld.do"],
  "rate-limited": ["error.rateLimited", "error.rateLimited.do"],
  unauthorized: ["error.unauthorized", "error.unauthorized.do"],
  forbidden: ["error.forbidden", "error.forbidden.do"],
  network: ["error.network", "error.network.do"],
};
const ANY_ERROR = ["error.other", "error.other.do"];

// The server's words on these say no more than ours.
const SAID_ALREADY = new Set(["blocked", "overloaded", "timeout", "not-held", "unauthorized", "network"]);

const wordsOf = (problem) => ERRORS[problem.code] ?? ANY_ERROR;

export const problemTitle = (problem) => t(wordsOf(problem)[0]);

/** What went wrong and what to do, with the server's words small below. */
export function problemText(problem) {
  const technical = [problem.code, problem.intentos ? t("error.attempts", { n: problem.intentos }) : null,
    problem.requestId ? t("error.reference", { id: problem.requestId }) : null].filter(Boolean).join(" · ");
  return [
    el("p", {}, t(wordsOf(problem)[1])),
    problem.detail && !SAID_ALREADY.has(problem.code) ? el("p", { class: "detail", ...spanish }, problem.detail) : null,
    ["network", "unauthorized"].includes(problem.code) ? null : el("p", { class: "detail" }, technical),
  ];
}
