// A command in a pod by @kubernetes/client-node, as a program that tests can start.
//
// usage: exec.mjs [-i] KUBECONFIG NAMESPACE POD CONTAINER COMMAND [ARG...]
//
// Ends with the remote exit code; with 1 and a line if the server refused or reported a failure that
// is no exit code; with 255 if the connection ended without a status.
//
// The library is not installed beside this file: NODE_MODULES_OF names the folder that has it.
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const home = createRequire(`${process.env.NODE_MODULES_OF ?? import.meta.dirname}/`);
const k8s = await import(pathToFileURL(home.resolve('@kubernetes/client-node')));

const argv = process.argv.slice(2);
const interactive = argv[0] === '-i';
if (interactive) argv.shift();
const [kubeconfig, namespace, pod, container, ...command] = argv;

const config = new k8s.KubeConfig();
config.loadFromFile(kubeconfig);

// Exits when all output has left: the library writes without waiting, and exiting drops the rest.
function end(code, line) {
  if (line) console.error(`exec.mjs: ${line}`);
  process.stdout.write('', () => process.stderr.write('', () => process.exit(code)));
}

let status;
try {
  const stdin = interactive ? process.stdin : null;
  const socket = await new k8s.Exec(config).exec(
    namespace, pod, container, command, process.stdout, process.stderr, stdin, false,
    (it) => { status = it; },
  );
  if (process.env.SHOW_PROTOCOL) console.error(`protocol ${socket.protocol}`);
  socket.addEventListener('close', () => {
    if (!status) return end(255, 'lost: the connection ended without a status');
    if (status.status === 'Success') return end(0);
    const exit = status.details?.causes?.find((cause) => cause.reason === 'ExitCode');
    return exit ? end(Number(exit.message)) : end(1, `failed: ${status.message}`);
  });
} catch (refused) {
  end(1, `refused: ${refused.message ?? refused}`);
}
