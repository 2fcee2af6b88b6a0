"""Log CPU, memory and GPU use of this machine to a run while it is written."""

from __future__ import annotations

import contextlib

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from vqlab.tracking.store import Client

_SAMPLING_SECONDS = 10.0


def start_monitor(client: Client, run_id: str, resumed: bool) -> SystemMetricsMonitor:
    """Start a thread that logs the metrics every 10 seconds."""
    monitor = SystemMetricsMonitor(
        run_id,
        sampling_interval=_SAMPLING_SECONDS,
        resume_logging=resumed,
        tracking_uri=client.store.uri,
    )
    monitor.start()
    return monitor


def stop_monitor(monitor: SystemMetricsMonitor) -> None:
    """Stop the thread and take a last sample, so that short runs have one."""
    with contextlib.suppress(Exception):
        monitor.finish()
        monitor.collect_metrics()
        monitor.publish_metrics(monitor.aggregate_metrics())
        monitor.mlflow_logger.flush()
