// Connects as NATS_URL says, nats://TOKEN@HOST:PORT or nats://USER:PASSWORD@HOST:PORT, or
// with NATS_USER and NATS_PASSWORD, or NATS_TOKEN, beside it.
import { connect } from '@nats-io/transport-node';

const { NATS_URL, NATS_USER, NATS_PASSWORD, NATS_TOKEN } = process.env;

export function connection(options = {}) {
  const url = new URL(NATS_URL ?? 'nats://127.0.0.1:4222');
  const name = decodeURIComponent(url.username);
  const password = decodeURIComponent(url.password);
  const who = NATS_USER ? { user: NATS_USER, pass: NATS_PASSWORD }
    : NATS_TOKEN ? { token: NATS_TOKEN }
    : password ? { user: name, pass: password }
    : name ? { token: name }
    : {};
  return connect({ servers: url.host, ...who, ...options });
}
