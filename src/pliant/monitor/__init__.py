"""Looking inside a network while somebody's own loop trains it, and where the numbers go."""

from pliant.monitor.monitor import Monitor
from pliant.monitor.sinks import JSONL, MLflow, Parquet, Sink, TensorBoard, WandB

__all__ = ["JSONL", "MLflow", "Monitor", "Parquet", "Sink", "TensorBoard", "WandB"]
