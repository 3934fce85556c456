from .recipe import Recipe as Recipe
from .recipe import get_recipe as get_recipe
from .train import train_codec as train_codec
