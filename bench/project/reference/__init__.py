"""How the built-in model was made: training, evaluation, its folder."""
