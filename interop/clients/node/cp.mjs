// A copy by the class `Cp` of @kubernetes/client-node, as a program that tests can start.
//
// usage: cp.mjs to|from KUBECONFIG NAMESPACE POD CONTAINER LOCAL REMOTE
//
// What is in the one directory comes into the other. Ends with 0 once the command has ended well and
// all is written. The class tells nobody of the end, and has compressed what it then unpacks as it
// comes; both are mended from outside, in the exec that it is given.
//
// The library is not installed beside this file: NODE_MODULES_OF names the folder that has it.
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const home = createRequire(`${process.env.NODE_MODULES_OF ?? import.meta.dirname}/`);
const k8s = await import(pathToFileURL(home.resolve('@kubernetes/client-node')));

const [way, kubeconfig, namespace, pod, container, local, remote] = process.argv.slice(2);
const config = new k8s.KubeConfig();
config.loadFromFile(kubeconfig);
const inner = new k8s.Exec(config);

function end(code, line) {
  if (line) console.error(`cp.mjs: ${line}`);
  process.exit(code);
}

const exec = {
  async exec(namespace, pod, container, command, stdout, stderr, stdin, tty, callback) {
    const plain = command.map((word) => (word === 'zcf' ? 'cf' : word));
    const written = stdout && new Promise((done, fail) => {
      stdout.on('finish', done);
      stdout.on('error', fail);
    });
    let status;
    const socket = await inner.exec(
      namespace, pod, container, plain, stdout, stderr, stdin, tty, (it) => { status = it; },
    );
    socket.addEventListener('close', async () => {
      await callback?.(status);
      if (!status) return end(255, 'lost: the connection ended without a status');
      if (status.status !== 'Success') return end(1, `failed: ${status.message}`);
      await written;
      end(0);
    });
    return socket;
  },
};
const cp = new k8s.Cp(config, exec);
process.on('unhandledRejection', (error) => end(1, error.message ?? `${error}`));
if (way === 'to') await cp.cpToPod(namespace, pod, container, local, remote);
else await cp.cpFromPod(namespace, pod, container, '.', local, remote);
