// node subscribe.mjs: prints a line for each event, until it is interrupted. Events are
// core messages: what happens while the connection is lost is not heard, which is said.
import { connection } from './connect.mjs';

// What each event says, by its subject.
const texts = {
  'ruc.resolved': (body) => (body.encontrado ? body.razonSocial : 'not-found'),
  'ruc.failed': (body) => body.code,
  'ruc.changed': (body) => body.cambios.map((c) => c.campo).join(', '),
  'ruc.progress': (body) => (body.stage === 'queued' ? `place ${body.position}` : `attempt ${body.attempt} of ${body.attempts}`),
};

// The number of a natural person contains a national id.
const masked = (ruc) => (ruc.startsWith('20') ? ruc : `${ruc.slice(0, 2)}*******${ruc.slice(9)}`);

function line(message) {
  const kind = message.subject.split('.').slice(0, 2).join('.');
  const body = message.json();
  const text = kind === 'ruc.resolved' && body.encontrado && !body.ruc.startsWith('20') ? '(persona natural)' : texts[kind](body);
  const seq = message.headers?.get('Nats-Sequence'); // progress is not stored and has none
  return [kind.replace('ruc.', ''), masked(body.ruc), text, seq && `seq ${seq}`].filter(Boolean).join('  ');
}

function hear(err, message) {
  try {
    if (err) throw err;
    console.log(line(message));
  } catch (e) {
    console.error(`no event of rucflow's: ${e.message}`);
  }
}

async function report(nc) {
  for await (const status of nc.status()) {
    if (status.type === 'disconnect') console.error('the connection was lost');
    if (status.type === 'reconnect') console.error('the connection is back; events may be missing');
    if (status.type === 'slowConsumer') console.error('events come faster than they are printed');
    if (status.type === 'error') console.error(status.error.message);
  }
}

let nc;
try {
  nc = await connection({ maxReconnectAttempts: -1, reconnectTimeWait: 1000 });
} catch (err) {
  console.error(err.message);
  process.exit(1);
}
report(nc);
for (const subject of ['ruc.resolved', 'ruc.failed', 'ruc.changed', 'ruc.progress.*']) {
  nc.subscribe(subject, { callback: hear, slow: 1024 }); // with more unread, the status says so
}
await nc.flush();
console.error('listening');
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => nc.drain());
const err = await nc.closed();
if (err) {
  console.error(err.message);
  process.exitCode = 1;
}
