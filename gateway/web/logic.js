// What the page knows without a browser: how numbers are found in pasted text, the check
// digit, CSV, and the forms that the gateway speaks. Nothing here touches the document,
// the network or the clock; testdata/logic.json holds examples of every function.

/** How many numbers one list holds; GET /v1/eventos takes no more either. */
export const MAX_AT_ONCE = 20;

const DIGITS = 11;

// As in shared/ruc/number.go.
const WEIGHTS = [5, 4, 3, 2, 7, 6, 5, 4, 3, 2];

/** The check digit that belongs to the first ten digits of a number. */
export function checkDigit(firstTen) {
  const sum = WEIGHTS.reduce((total, weight, i) => total + weight * Number(firstTen[i]), 0);
  return String((11 - (sum % 11)) % 10);
}

export function isRuc(text) {
  return /^[0-9]{11}$/.test(text) && checkDigit(text) === text[10];
}

/** The parts in which people read a number: kind, body, check digit. */
export function groups(ruc) {
  return [ruc.slice(0, 2), ruc.slice(2, 10), ruc.slice(10)];
}

// Digits of other widths become plain ones, hard blanks plain blanks, and what cannot be
// seen goes: spreadsheets and PDF files put all of these between digits.
function plain(text) {
  return text.normalize("NFKC").replace(/[\u200b-\u200f\u202a-\u202e\u2060\ufeff\u00ad]/g, "");
}

// Digits that a blank, a dot or a hyphen may interrupt. A tab, a line's end, a comma or a
// word ends the run: beyond it another cell begins.
const RUN = /[0-9]+(?:[ .\-\u2010-\u2015]{1,3}[0-9]+)*/g;

// The ways in which people part one number. Parted otherwise, eleven digits count as a
// number only when the check digit agrees, so that a telephone number is none.
const SHAPES = new Set(["2,8,1", "10,1", "2,9"]);

/**
 * Every number in a text, once, in order: {ruc, ok}, and where the check digit is wrong
 * also the one expected.
 */
export function findRucs(text) {
  const found = new Map();
  const add = (ruc) => {
    if (!found.has(ruc)) found.set(ruc, judged(ruc));
  };
  for (const [run] of plain(text).matchAll(RUN)) {
    const parts = run.match(/[0-9]+/g);
    for (let i = 0; i < parts.length; i++) {
      if (parts[i].length >= DIGITS) {
        together(parts[i]).forEach(add);
        continue;
      }
      let joined = parts[i];
      let last = i;
      while (joined.length < DIGITS && last + 1 < parts.length) joined += parts[++last];
      const shape = parts.slice(i, last + 1).map((part) => part.length).join();
      if (joined.length === DIGITS && (SHAPES.has(shape) || isRuc(joined))) {
        add(joined);
        i = last;
      }
    }
  }
  return [...found.values()];
}

function judged(ruc) {
  return isRuc(ruc) ? { ruc, ok: true } : { ruc, ok: false, expected: checkDigit(ruc) };
}

// The numbers in digits without a gap: one, or several that lost the line ends between
// them, as happens when a column is pasted into a field of one line.
function together(digits) {
  if (digits.length === DIGITS) return [digits];
  const numbers = digits.length % DIGITS === 0 ? digits.match(/.{11}/g) : [];
  return numbers.every(isRuc) ? numbers : [];
}

/**
 * What is in the box, for the hint below it. kind is one of
 *   empty
 *   short    missing: how many digits are to come
 *   long     extra: how many are too many
 *   digit    one number whose check digit is wrong
 *   valid    one number
 *   several  more than one, valid or not
 *   none     text without a number
 * found is what findRucs found.
 */
export function inspect(text) {
  let found = findRucs(text);
  if (found.length > 1) return { kind: "several", found };
  const words = plain(text).replace(/\bR\.?U\.?C\b|\bN\.?(?:ro|o)?\b/gi, "");
  const digits = words.replace(/[^0-9]/g, "");
  if (found.length === 0 && digits.length === DIGITS && !/\p{L}/u.test(words)) found = [judged(digits)];
  if (found.length === 1) return { kind: found[0].ok ? "valid" : "digit", found };
  if (plain(text).trim() === "") return { kind: "empty", found };
  if (digits === "" || /\p{L}/u.test(words)) return { kind: "none", found };
  if (digits.length < DIGITS) return { kind: "short", missing: DIGITS - digits.length, found };
  return { kind: "long", extra: digits.length - DIGITS, found };
}

/** The numbers for one list, and the text of those that stay in the box. */
export function portion(found, limit = MAX_AT_ONCE) {
  return { now: found.slice(0, limit), rest: found.slice(limit).map(({ ruc }) => ruc).join("\n") };
}

/**
 * One cell of CSV (RFC 4180). What a spreadsheet would take for a formula is led by an
 * apostrophe: the names come from a page that anybody's company name gets onto.
 */
export function csvCell(value) {
  let text = value === null || value === undefined ? "" : String(value);
  if (/^[=+\-@\t\r]/.test(text)) text = "'" + text;
  return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
}

const since = (what, day) => (day ? `${what} (${day})` : what);

// Columns whose cells are lists, each as one line of text.
const LISTS = {
  actividadesEconomicas: (a) => `${a.ciiu} ${a.descripcion}`,
  comprobantesPago: String,
  sistemaEmisionElectronica: (s) => since(s.sistema, s.desde),
  comprobantesElectronicos: (c) => since(c.tipo, c.desde),
  padrones: String,
  avisos: String,
};

const COLUMNS = [
  "ruc", "encontrado", "razonSocial", "nombreComercial", "tipoContribuyente", "tipoPersona", "tipoDocumento",
  "estado", "activo", "fechaBaja", "condicion", "habido", "condicionNota", "fechaInscripcion", "fechaInicioActividades",
  "domicilioFiscal", "direccion", "departamento", "provincia", "distrito", "ubigeo",
  "sistemaEmisionComprobante", "sistemaContabilidad", "actividadComercioExterior", "afectoNuevoRus",
  "actividadesEconomicas", "comprobantesPago", "sistemaEmisionElectronica", "emisorElectronicoDesde",
  "comprobantesElectronicos", "afiliadoPleDesde", "padrones", "agenteRetencion", "agentePercepcion", "buenContribuyente",
  "avisos", "fechaConsultaSunat", "obtenidoEn", "fuente",
];

/** Answers as CSV: a line of names, a line for each answer, lists parted by semicolons. */
export function csvOf(answers) {
  const cell = (answer, column) =>
    csvCell(column in LISTS ? (answer[column] ?? []).map(LISTS[column]).join("; ") : answer[column]);
  const lines = answers.map((answer) => COLUMNS.map((column) => cell(answer, column)).join(","));
  return [COLUMNS.join(","), ...lines, ""].join("\r\n");
}

/**
 * Where an answer came from, by the Cache-Status header (RFC 9211). source is one of
 * memory, redis, file, stream, stale, visit, joined, unknown; begun says that a visit goes
 * on behind a stale answer.
 */
export function cacheStatus(header) {
  const ours = (header ?? "").split(",").map((item) => item.trim()).find((item) => /^rucflow(;|$)/.test(item));
  if (!ours) return { source: "unknown", begun: false };
  const parameters = ours.split(";").slice(1).map((p) => p.trim().split("="));
  const said = new Map(parameters.map(([name, value]) => [name, value ?? true]));
  const detail = said.get("detail");
  if (detail === "stale") return { source: "stale", begun: said.get("fwd") === "stale" };
  if (said.has("fwd")) return { source: said.has("collapsed") ? "joined" : "visit", begun: false };
  const known = ["memory", "redis", "file", "stream"].includes(detail);
  return { source: known ? detail : "unknown", begun: false };
}

/**
 * A parser of text/event-stream as the HTML standard describes it: call it with each piece
 * of text, get the events that ended in it, as {event, data, id}.
 */
export function eventParser() {
  let rest = "";
  let event = "";
  let data = [];
  let id = "";
  const line = (text, events) => {
    if (text === "") {
      if (data.length > 0) events.push({ event: event || "message", data: data.join("\n"), id });
      event = "";
      data = [];
      return;
    }
    const [, field, value] = /^([^:]*)(?:: ?(.*))?$/s.exec(text);
    if (field === "event") event = value ?? "";
    else if (field === "data") data.push(value ?? "");
    else if (field === "id") id = value ?? "";
  };
  return (piece) => {
    const events = [];
    rest += piece;
    // A CR at the very end may be half of a CRLF: it waits for what follows.
    for (let end; (end = /\r\n|\n|\r(?!$)/.exec(rest)); ) {
      line(rest.slice(0, end.index), events);
      rest = rest.slice(end.index + end[0].length);
    }
    return events;
  };
}

/** A wait in words that are the same in both languages. */
export function clock(seconds) {
  const s = Math.max(0, Math.ceil(seconds));
  const two = (n) => String(n).padStart(2, "0");
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${two(s % 60)} s`;
  return `${Math.floor(s / 3600)} h ${two(Math.floor((s % 3600) / 60))} min`;
}

/** An age in seconds as the unit in which one would say it, for Intl.RelativeTimeFormat. */
export function ago(seconds) {
  if (seconds < 60) return [-Math.max(0, Math.floor(seconds)), "second"];
  if (seconds < 3600) return [-Math.floor(seconds / 60), "minute"];
  if (seconds < 86400) return [-Math.floor(seconds / 3600), "hour"];
  return [-Math.floor(seconds / 86400), "day"];
}

/** The recent lookups with one more in front; a number is there once. */
export function remember(list, item, limit = 20) {
  return [item, ...list.filter(({ ruc }) => ruc !== item.ruc)].slice(0, limit);
}

/** The recent lookups in what the browser kept; what is not of our making is left out. */
export function recentsOf(json) {
  try {
    const list = JSON.parse(json);
    return Array.isArray(list) ? list.filter((item) => isRuc(item?.ruc ?? "") && typeof item.name === "string") : [];
  } catch {
    return [];
  }
}

/** How grave a state of a taxpayer is: good, warn or bad. Both sets of words are open. */
export function toneOfEstado(record) {
  if (record.activo) return "good";
  return /SUSPEN/.test(record.estado ?? "") ? "warn" : "bad";
}

export function toneOfCondicion(record) {
  if (record.habido) return "good";
  return /^NO HABIDO/.test(record.condicion ?? "") ? "bad" : "warn";
}
