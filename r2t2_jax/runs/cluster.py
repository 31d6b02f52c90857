"""Ray clusters: the connection, and what each worker of a run holds. Ray is imported only if it is requested."""

from __future__ import annotations

import logging
import math
import os
import re
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any

from r2t2_jax.errors import R2T2Error, missing_extra
from r2t2_jax.runs.fingerprint import local_devices
from r2t2_jax.runs.interrupt import SIGNALS
from r2t2_jax.runtime.typed_json import parse_json

Log = Callable[[str], None]
LOCAL, AUTO = "local", "auto"
CONNECT_TIMEOUT = 10.0  # seconds
JOIN_TIMEOUT = 20.0  # seconds that a node with the resources of a worker may take to join a cluster started by hand


@dataclass(frozen=True)
class WorkerConfig:
    """The cluster and the number of workers.

    Args:
        address: `local` for a cluster on this machine, `auto` for the cluster of this machine, or a cluster's address.
        workers: number of actors; `None` for as many as the cluster has room for, also while the run goes on.
        resources: what each actor holds: `{"GPU": 1}`, `{"TPU": 4}`, custom resources; one CPU by default.
        model_uri: where an actor fetches the model directory if it does not see its path.
    """

    address: str
    workers: int | None = None
    resources: Mapping[str, float] = field(default_factory=lambda: {"CPU": 1})
    model_uri: str = ""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise R2T2Error(f"--workers {self.workers}: give at least 1, or auto")
        for name, amount in self.resources.items():
            number = not isinstance(amount, bool) and isinstance(amount, int | float) and math.isfinite(amount)
            if not number or amount <= 0:
                raise R2T2Error(f"--worker-resources: {name} must be a positive number, not {amount!r}")
            if amount > 1 and amount != int(amount):
                raise R2T2Error(f"--worker-resources: {name} above 1 must be a whole number, not {amount!r}")

    @classmethod
    def parse(cls, address: str, workers: str, resources: str, model_uri: str = "") -> WorkerConfig | None:
        """The configuration that the command line gives: `--ray`, `--workers`, `--worker-resources`, `--model-uri`.

        Returns:
            `None` without an address.

        Raises:
            R2T2Error: Ray is not installed, an option has no valid value, or is given without an address.
        """
        if not address:
            if workers != "auto" or resources or model_uri:
                raise R2T2Error(
                    "--workers, --worker-resources and --model-uri need --ray: local, auto, or the address of a cluster"
                )
            return None
        if workers != "auto" and not re.fullmatch(r"-?\d+", workers):
            raise R2T2Error(f"--workers {workers!r} is neither a number nor auto")
        try:
            amounts = parse_json(resources, "the text", lines=False).content if resources else {"CPU": 1}
        except R2T2Error as error:
            raise R2T2Error(f"--worker-resources is not JSON ({error}); write for example '{{\"GPU\": 1}}'") from error
        if not isinstance(amounts, dict) or not amounts or "" in amounts:
            raise R2T2Error("--worker-resources must be a JSON object such as '{\"GPU\": 1}'")
        config = cls(address, None if workers == "auto" else int(workers), amounts, model_uri)
        if find_spec("ray") is None:
            raise missing_extra("--ray", "Ray", "ray")
        return config

    @property
    def accelerated(self) -> bool:
        """Whether an actor holds more than CPUs and memory."""
        return not set(self.resources) <= {"CPU", "memory"}

    @property
    def each(self) -> str:
        """The resources of an actor: `1 GPU, 4 CPU`."""
        return ", ".join(f"{amount:g} {name}" for name, amount in self.resources.items())

    def describe(self) -> str:
        """One line for a dry run, from the nodes that the cluster has now.

        Raises:
            R2T2Error: the cluster cannot be reached, or has no node with the resources of a worker.
        """
        if self.address == LOCAL and not self.accelerated:
            cpus = os.cpu_count() or 1
            nodes: list[Mapping[str, float]] = [{"CPU": cpus, "memory": math.inf}]
            if not self.room(nodes):
                raise R2T2Error(self.no_room(nodes))
        else:
            with cluster(self) as ray:
                nodes = wait_for_node(ray, self, lambda line: None)
        room = self.room(nodes)
        count = room if self.workers is None else min(self.workers, room)
        requested = "as many as fit" if self.workers is None else f"of {self.workers}"
        return (
            f"ray         {count} workers ({requested}) with {self.each} each; {self.address}: {describe_nodes(nodes)}"
        )

    def room(self, nodes: list[Mapping[str, float]]) -> int:
        """The number of actors that the nodes can hold."""
        return sum(
            int(min(node.get(name, 0) / amount for name, amount in self.resources.items())) for node in nodes if node
        )

    def no_room(self, nodes: list[Mapping[str, float]]) -> str:
        """The message if no node can hold an actor."""
        return (
            f"no node of the Ray cluster {self.address!r} has {self.each} for a worker: there are "
            f"{describe_nodes(nodes)}; change --worker-resources, or start such a node"
        )


def describe_nodes(nodes: list[Mapping[str, float]]) -> str:
    """Number of nodes, and their CPUs, accelerators and custom resources together: `2 nodes with 16 CPU, 8 GPU`."""
    totals: dict[str, float] = {}
    for node in nodes:
        for name, amount in node.items():
            if name not in ("memory", "object_store_memory") and not name.startswith(("node:", "accelerator_type:")):
                totals[name] = totals.get(name, 0) + amount
    amounts = ", ".join(f"{amount:g} {name}" for name, amount in sorted(totals.items())) or "no resources"
    return f"{len(nodes)} node{'' if len(nodes) == 1 else 's'} with {amounts}"


@contextmanager
def cluster(config: WorkerConfig) -> Iterator[Any]:
    """Connect to the cluster, and disconnect at the end; yields the module `ray`.

    Raises:
        R2T2Error: Ray is not installed, or the cluster cannot be reached.
    """
    try:
        import ray
    except ImportError as error:
        raise missing_extra("--ray", "Ray", "ray") from error
    mine = not ray.is_initialized()
    if mine:
        _check_reachable(config.address)
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        try:
            with warnings.catch_warnings(), _few_processes(ray) if config.address == LOCAL else nullcontext():
                warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)  # the child runs another program at once
                ray.init(
                    address=config.address,
                    include_dashboard=False if config.address == LOCAL else None,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _system_config={"prestart_worker_first_driver": False} if config.address == LOCAL else None,
                )  # without prestarted processes, which actors would not use all of
        except Exception as error:  # a node that starts too slowly is a bare Exception
            message = " ".join(str(error).split())[:300]
            raise R2T2Error(f"cannot reach the Ray cluster {config.address!r}: {message}") from error
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in handlers.items():  # Ray installs its own; a run ends after the batch
                    signal.signal(number, handler)
    try:
        yield ray
    finally:
        if mine:
            ray.shutdown()


@contextmanager
def _few_processes(ray: Any) -> Iterator[None]:
    """While it is open, `ray.init` starts a local cluster without its log monitor, autoscaler and dashboard.

    Each of them is a Python process that imports Ray, and a run on this machine uses none of them. Ray has parameters
    for the first two and accepts a dashboard that does not start, but `ray.init` has no arguments for this. A version
    of Ray with other internals starts all of its processes.
    """
    try:
        parameter, node = ray._private.parameter, ray._private.node.Node
        params, start_dashboard = parameter.RayParams, node.start_api_server
    except AttributeError:
        yield
        return
    parameter.RayParams = partial(params, no_monitor=True, include_log_monitor=False)
    node.start_api_server = lambda self, **_: None
    try:
        yield
    finally:
        parameter.RayParams, node.start_api_server = params, start_dashboard


def _check_reachable(address: str) -> None:
    """Refuse an address `HOST:PORT` at which nothing listens; Ray itself would wait for minutes."""
    if address in (LOCAL, AUTO) or "://" in address:
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise R2T2Error(f"--ray {address!r} is no address: give local, auto, or HOST:PORT of a cluster's head")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT).close()
    except OSError as error:
        raise R2T2Error(f"cannot reach the Ray cluster {address!r}: {error.strerror or error}") from error


def alive_nodes(ray: Any) -> list[Mapping[str, float]]:
    """The resources of each node that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def wait_for_node(ray: Any, config: WorkerConfig, log: Log) -> list[Mapping[str, float]]:
    """The nodes of the cluster, as soon as one of them can hold a worker.

    Nodes of a cluster started by hand may take `JOIN_TIMEOUT` to join. A cluster with an autoscaler adds nodes only
    once workers wait for them, so it is not refused.

    Raises:
        R2T2Error: no node has the resources of a worker; the message lists those that there are.
    """
    start = time.monotonic()
    while not config.room(nodes := alive_nodes(ray)):
        if config.address == LOCAL or time.monotonic() - start > JOIN_TIMEOUT:
            if config.address != LOCAL and autoscales(ray):
                log(f"waiting for the autoscaler: {config.no_room(nodes)}")
                return nodes
            raise R2T2Error(config.no_room(nodes))
        time.sleep(0.5)
    return nodes


def autoscales(ray: Any) -> bool:
    """Whether the cluster's autoscaler has published groups of nodes that it can add."""
    try:
        published = ray._private.state.state.get_cluster_config()
    except Exception:  # the interface is private to Ray
        return False
    return published is not None and bool(published.node_group_configs)


@dataclass(frozen=True)
class Workers:
    """A connection to a cluster.

    Args:
        ray: the module.
        config: where workers run, and what each holds.
        log: called with a message for each lost worker.
        devices: number and kind of the accelerators of each worker; `None` for workers on CPUs.
    """

    ray: Any
    config: WorkerConfig
    log: Log
    devices: str | None = None

    @property
    def per_node(self) -> int:
        """The largest number of workers that share a node."""
        room = max((self.config.room([node]) for node in alive_nodes(self.ray)), default=1)
        return max(1, room if self.config.workers is None else min(room, self.config.workers))


def devices_of(workers: Workers | None) -> str | None:
    """The devices that compute, for `fingerprint.versions`; `None` for those of this process."""
    return None if workers is None else workers.devices


@contextmanager
def connect(config: WorkerConfig | None, log: Log) -> Iterator[Workers | None]:
    """Connect to the cluster; yields `None` without a configuration, and Ray is then not imported.

    Raises:
        R2T2Error: the cluster cannot be reached, or has no node with the resources of a worker.
    """
    if config is None:
        yield None
        return
    with cluster(config) as ray:
        wait_for_node(ray, config, log)
        devices = None
        if config.accelerated:
            task = ray.remote(local_devices).options(max_calls=1, max_retries=3, **ray_options(config))
            devices = ray.get(task.remote())
            devices = None if devices.endswith(" x cpu") else devices
        yield Workers(ray, config, log, devices)


def ray_options(config: WorkerConfig) -> dict[str, Any]:
    """The resources of a worker as Ray's options."""
    amounts = dict(config.resources)
    named = {"num_cpus": amounts.pop("CPU", 0), "num_gpus": amounts.pop("GPU", 0)}
    if "memory" in amounts:
        named["memory"] = amounts.pop("memory")
    return {**named, "resources": amounts}
