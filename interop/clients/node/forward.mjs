// A port of a pod by @kubernetes/client-node, as a program that tests can start.
//
// usage: forward.mjs KUBECONFIG NAMESPACE POD PORT BYTES
//
// Sends its input to the port and prints what comes back, until the port's side ends or BYTES have
// come. Ends with 1 and a line if the port could not be reached.
//
// The library is not installed beside this file: NODE_MODULES_OF names the folder that has it.
import { createRequire } from 'node:module';
import { PassThrough, Writable } from 'node:stream';
import { pathToFileURL } from 'node:url';

const home = createRequire(`${process.env.NODE_MODULES_OF ?? import.meta.dirname}/`);
const k8s = await import(pathToFileURL(home.resolve('@kubernetes/client-node')));

const [kubeconfig, namespace, pod, port, bytes] = process.argv.slice(2);
const config = new k8s.KubeConfig();
config.loadFromFile(kubeconfig);

// Exits when all output has left: the library writes without waiting, and exiting drops the rest.
function end(code, line) {
  if (line) console.error(`forward.mjs: ${line}`);
  process.stdout.write('', () => process.stderr.write('', () => process.exit(code)));
}

let left = Number(bytes);
const output = new Writable({
  write(data, _encoding, done) {
    const piece = data.subarray(0, left);
    left -= piece.length;
    process.stdout.write(piece, () => { done(); if (left === 0) end(0); });
  },
});
let failure = '';
const errors = new Writable({
  // What is left of the message that names the port is an empty one.
  write(data, _encoding, done) { failure += data; done(); if (data.length) end(1, failure); },
});
// The library ends the session with its input; this one stays open.
const input = new PassThrough();
process.stdin.on('data', (data) => input.write(data));
try {
  const forward = new k8s.PortForward(config);
  const socket = await forward.portForward(namespace, pod, [Number(port)], output, errors, input);
  const ends = () => end(failure ? 1 : 0, failure);
  (typeof socket === 'function' ? socket() : socket)?.addEventListener('close', ends);
} catch (refused) {
  end(1, `refused: ${refused.message ?? refused}`);
}
