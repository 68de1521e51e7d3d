"""Figures of the documentation, one file each; ``python -m paper_figs`` draws them again."""
