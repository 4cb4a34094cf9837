"""Alignment methods, one LightningModule per file; `class_path: mmalign.methods.DPO` names one."""

from mmalign.methods.base import AlignmentModule, OptimSettings
from mmalign.methods.dpo import DPO

__all__ = ["DPO", "AlignmentModule", "OptimSettings"]
