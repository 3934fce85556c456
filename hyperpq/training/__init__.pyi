from .presets import get_recipe as get_recipe
from .recipe import Recipe as Recipe
from .train import train_codec as train_codec
