"""Ensembles of experts: how compute is divided among domains, and what the experts say together."""
