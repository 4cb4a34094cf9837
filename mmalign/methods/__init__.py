"""Alignment methods, one LightningModule per file; a config names one: `class_path: mmalign.methods.dpo.DPO`."""
