"""The settings of a run: typed sections, made from classes where a class is chosen, and the rules between them."""
