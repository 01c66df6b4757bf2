// node lookup.mjs 20131312955: asks rucflow for a number and prints its record.
// Exit status: 0 with the record, 3 where SUNAT does not know the number, 2 for a wrong
// number, 1 for everything else.
import { headers, RequestError, TimeoutError } from '@nats-io/transport-node';
import { connection } from './connect.mjs';

const wait = 45_000; // a visit takes seconds

async function lookup(nc, number) {
  const h = headers();
  h.set('Ruc-Wait', String(wait));
  // A little longer than that: the gateway says itself that it took too long.
  const reply = await nc.request('ruc.lookup', number, { timeout: wait + 1000, headers: h });
  const code = reply.headers?.get('Nats-Service-Error');
  return code ? { code, problem: reply.json() } : { record: reply.json() };
}

function why(err) {
  if (err instanceof RequestError && err.isNoResponders()) return 'no gateway answers on this NATS server';
  if (err instanceof TimeoutError) return 'no answer in time';
  return err.message;
}

const number = process.argv[2];
if (!number) {
  console.error('usage: node lookup.mjs RUC');
  process.exit(2);
}
let nc;
try {
  nc = await connection();
  const { record, code, problem } = await lookup(nc, number);
  if (record) {
    console.log(JSON.stringify(record, null, 2));
  } else {
    const again = problem.retryAfter ? ` (again in ${problem.retryAfter} s)` : '';
    console.error(`${code}: ${problem.detail}${again}`);
    process.exitCode = { 'not-found': 3, invalid: 2 }[code] ?? 1;
  }
} catch (err) {
  console.error(why(err));
  process.exitCode = 1;
} finally {
  await nc?.close();
}
