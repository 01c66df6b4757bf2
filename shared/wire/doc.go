// Package wire is what rucflow's services say to each other: subjects, headers,
// streams, the encoding of answers and problems. Whoever speaks to rucflow over
// NATS in another language needs nothing but this page; deploy/schemas has a JSON Schema
// of each payload, deploy/examples programs to begin with.
//
// # Asking
//
// ruc.lookup and ruc.resolve are requests. The payload is the number, bare or as
// {"ruc":"20131312955"}; the reply is the record as JSON. ruc.lookup is answered
// by a gateway, from its cache where it can; ruc.resolve by a scraper, with a
// visit to SUNAT or a share in one that is under way. Ruc-Wait says how many
// milliseconds the asker will wait (default 30 000): a duration and not a time of
// day, because clocks differ between machines. A request whose reply subject begins
// with ruc. or $ gets none: see Handler.
//
// An error reply carries Nats-Service-Error-Code (the HTTP status),
// Nats-Service-Error (one of ruc.Codes) and a problem document as body, the same
// one that HTTP clients get. A number that SUNAT does not know is such a reply
// with code not-found; its document holds obtenidoEn and huella, since it is an
// answer and not a failure.
//
// # One visit
//
// The scraper that hears ruc.resolve (the front) puts the job ruc.visit.<ruc>
// on the work queue RUC_VISITS. The stream holds one message per subject, so the
// fleet has one job per number, waiting or in flight. The put says
// Nats-Expected-Last-Subject-Sequence: 0; the refusal 10071 means that the job is
// there already (its sequence ends the text), 10077 that the queue is full.
//
// A free tab of any scraper (the slot) pulls the job, waits for its turn
// (RUC_TURN holds one message, given back with a delay: the pace of the whole
// fleet), visits, stores the event ruc.resolved.<ruc> or ruc.failed.<ruc> in
// RUC_EVENTS and only then acknowledges the job. The stream republishes what it
// stored as ruc.resolved and ruc.failed, and that is what fronts wait for.
//
// The invariant: a job leaves the queue only after an event newer than its
// Ruc-After is stored, or with a ruc.dropped. The slot's "skip" and the front's
// "accept" are the same comparison of stream sequences.
//
// A front looks at the newest stored event before it puts the job, after it put
// it, every two seconds, on ruc.dropped and on every reconnect. Each look closes
// a window that the others leave open: the event may be stored between the first
// look and the put, and core messages may be lost with a server.
//
// # Events
//
// Events are CloudEvents 1.0 in NATS binary mode: attributes in ce- headers, body
// the plain record. ce-id equals Nats-Msg-Id, <ruc>-<job sequence>-<job time>, so
// a second visit of one job stores nothing. Ruc-Job names the job's sequence.
// Everybody who may publish ruc.resolved.* writes the cache, so every consumer
// checks an event before use (ParseEvent).
//
// # Changes
//
// When an answer says something else of the taxpayer than the one that the stream held
// before it, a cachewriter stores ruc.changed.<ruc>, republished as ruc.changed: the two
// whole answers and the fields in which they differ (Changed). The first answer of a
// number is no change, nor is one that only its times, source and engine set apart;
// failures between do not count. That a number is no longer found, or found again, is a
// change of encontrado.
//
// A slot stores an answer on condition that the newest one of its number is still the one
// that it has looked at, and Ruc-Before names that one and its huella. So the event says
// itself, as a rule, that there is nothing new; otherwise, and where an event says nothing,
// the cachewriter reads the answer before it in the stream.
//
// There is one change for each such answer, however often that is delivered, and to
// however many cachewriters. Its ce-id is changed:<ruc>:<sequence of the answer>, Ruc-Seq
// that sequence. As the stream forgets ids after ten minutes, a change is stored on
// condition that the newest one of the number is still the one that was looked at
// (Nats-Expected-Last-Subject-Sequence), and that one lists in Ruc-Changes the answers of
// the 32 before it. An answer is acknowledged after its change is stored. Two
// cachewriters may store the changes of one number in another order than their answers
// have; Ruc-Seq tells it.
//
// # Notices
//
// ruc.invalidated says that answers were deleted from the store (Invalidated). It is
// not stored: who keeps copies drops them when he hears it, and drops everything when
// he may have missed something.
//
// ruc.progress.<ruc> says how far a job has come (Progress): its place in the queue, the
// attempt under way. It is not stored either, and nothing but a display may rest on it.
//
// # The pause
//
// When SUNAT refuses (blocked), the fleet rests. The pause is the key pause of the KV
// bucket RUC_STATE: {"forMs":300000,"n":1,"probe":""}, a duration that counts from the
// time that the server gave the entry. It is written only in the place of a revision
// that the writer has seen (Nats-Expected-Last-Subject-Sequence), so of several who
// try at one time one succeeds. While it lasts, fronts refuse at once with blocked and
// what is left of it as retryAfter, and slots drop what is queued with ruc.dropped,
// reason blocked; nothing is stored for either.
//
// A visit opens the pause only in the place of the revision that it had seen when it
// began, so the visits that were in flight open it once. When it has run out, callers
// are let through again, and the slot that takes a job and puts an entry with its own
// name as probe in the run-out one's place makes the one visit. That entry is a pause
// too: a probe that died is followed by another when it has run out. An answer, found
// or not, deletes the key; another refusal puts a pause twice as long there (at most an
// hour), n counted on; any other failure leaves the probe's entry to run out.
//
// There is no event for this: the bucket tells who watches it.
//
//	nats kv watch RUC_STATE
//	nats kv put RUC_STATE pause '{"forMs":600000,"n":1}'   # rest for ten minutes
//	nats kv del RUC_STATE pause                            # go on at once
//
// # Dead letters
//
// A consumer that cannot use a message, now or later, stores it in RUC_DEAD as
// ruc.dead.<consumer> before it terminates it, so nothing is lost and nothing is
// tried for ever. The body is the message's own. Ruc-Dead-Reason is one of
// DeadReasons; Ruc-Dead-Subject, Ruc-Dead-Stream, Ruc-Dead-Seq and
// Ruc-Dead-Stored say where the message came from. Each header that it had is
// there as Original-<name>, because under its own name a Nats-Msg-Id or a
// Nats-Expected-… would act on the letter too; Ruc-Dead-Dropped counts the lines
// for which there was no room. The letter's own Nats-Msg-Id is
// dead:<consumer>:<sequence>-<stored>, so a message that comes again leaves one
// letter.
package wire
