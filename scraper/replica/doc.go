// Package replica is a fake of SUNAT's public "Consulta RUC" site, for tests,
// demonstrations and measurements that must not touch the real one.
//
// It serves the search form with the real jQuery and Bootstrap, hands out a
// token and cookies, takes the form's POST and answers with a page of the same
// structure, charset and oddities as the real one: bytes in ISO-8859-1 under a
// meta that says utf-8, a commented-out row, a malformed button, padded cells,
// duplicate ids. Every taxpayer is invented (see [Lookup]); the names say so.
//
// The site can be told to misbehave while it runs. A fault is set by
// POST /_control/faults or [Server.SetFault]; what was asked of the site is read
// from GET /_control/stats or [Server.Stats]. The control routes answer loopback
// clients only.
//
// Words: a page is what one URL returns; a visit is an arrived POST with
// accion=consPorRuc; a taxpayer is a number with the record that a correct
// parser must read off its page; a shape is how that page words and breaks what
// the record says; a fault is a misbehaviour asked for.
//
// The package never imports the parser: both are written from the same facts, so
// that neither can copy the other's mistake.
package replica
