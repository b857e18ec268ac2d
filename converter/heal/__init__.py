"""Healing: label-free distillation of a rewritten model against the original."""
