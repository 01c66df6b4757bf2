// Package ruc holds the vocabulary of the domain: the taxpayer number, the
// record that SUNAT publishes about it, the answer to a lookup, the codes of
// what can go wrong, and what time does to an answer.
//
// Two ideas never meet in one branch. An answer (found, or not found) is a fact
// that SUNAT stated: it is stored and it ages. An error says why there is no
// answer: it is never stored and never turned into "not found".
//
// The package imports only the standard library, so every service, test and
// tool can speak it without bringing anything along.
package ruc
