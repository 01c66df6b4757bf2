// Package sunat reads SUNAT's "Consulta RUC" page: one pure parser from HTML to an
// answer or a code, whichever way the page was fetched.
//
// Rows are found by their label, never by their position: the page drops rows,
// adds notices, and has changed labels over the years. Four rows are required
// (RUC, Tipo Contribuyente, Estado, Condición); any other may be missing and is
// then absent in the record.
package sunat
