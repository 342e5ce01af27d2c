"""Start a Ray cluster of two nodes with one CPU each on this machine, run a command against it and stop it: python tests/ray_cluster.py -- command"""
import os
import subprocess
import sys
from contextlib import contextmanager

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports its use to its makers unless told not to
OBJECTS = 100 * 2**20  # bytes of each node's object store


class NoCluster(Exception): "Ray did not start; one line."


def start_cluster(tries=2):
    "A running cluster. Ray gives a node 30 s to start, which cannot be set, so a slow first start is tried again; then NoCluster."
    from ray.cluster_utils import Cluster
    for left in reversed(range(tries)):
        cluster = Cluster()
        try:
            for place in (dict(include_dashboard=False), {}): cluster.add_node(num_cpus=1, object_store_memory=OBJECTS, **place)
            return cluster
        except Exception as error:  # Ray raises bare exceptions here
            cluster.shutdown()
            if not left: raise NoCluster(f"Ray could not start two nodes, each within its 30 s: run again when this machine has less to do ({(str(error).splitlines() or [type(error).__name__])[0]})") from None


@contextmanager
def two_nodes():
    "The address of a running cluster."
    cluster = start_cluster()
    try: yield cluster.address
    finally: cluster.shutdown()


def main(words):
    if words[:1] != ["--"] or len(words) < 2: sys.exit(__doc__)
    try: import ray
    except ImportError: sys.exit("ray is not installed: .venv/bin/pip install --only-binary :all: ray==2.60.0")
    with two_nodes() as address:
        print(f"two nodes of Ray {ray.__version__} at {address}", file=sys.stderr, flush=True)
        return subprocess.run(words[1:], env=os.environ | {"RAY_ADDRESS": address}).returncode


if __name__ == "__main__":
    try: sys.exit(main(sys.argv[1:]))
    except NoCluster as error: sys.exit(str(error))
    except KeyboardInterrupt: sys.exit(130)
