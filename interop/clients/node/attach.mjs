// An attach by @kubernetes/client-node, as a program that tests can start.
//
// usage: attach.mjs [-i] KUBECONFIG NAMESPACE POD CONTAINER
//
// Ends with 0 where the connection has ended well, which is all that the library tells; with 1 and a
// line if the server refused, and 255 otherwise.
//
// The library is not installed beside this file: NODE_MODULES_OF names the folder that has it.
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const home = createRequire(`${process.env.NODE_MODULES_OF ?? import.meta.dirname}/`);
const k8s = await import(pathToFileURL(home.resolve('@kubernetes/client-node')));

const argv = process.argv.slice(2);
const interactive = argv[0] === '-i';
if (interactive) argv.shift();
const [kubeconfig, namespace, pod, container] = argv;
const config = new k8s.KubeConfig();
config.loadFromFile(kubeconfig);

// Exits when all output has left: the library writes without waiting, and exiting drops the rest.
function end(code, line) {
  if (line) console.error(`attach.mjs: ${line}`);
  process.stdout.write('', () => process.stderr.write('', () => process.exit(code)));
}

try {
  const stdin = interactive ? process.stdin : null;
  const socket = await new k8s.Attach(config).attach(
    namespace, pod, container, process.stdout, process.stderr, stdin, false,
  );
  const ends = ({ code }) => end(code === 1000 ? 0 : 255, code === 1000 ? '' : `lost: ${code}`);
  socket.addEventListener('close', ends);
} catch (refused) {
  end(1, `refused: ${refused.message ?? refused}`);
}
