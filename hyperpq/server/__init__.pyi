from .app import create_app as create_app
from .client import AsyncClient as AsyncClient
from .client import Client as Client
from .client import IndexInfo as IndexInfo
from .served_index import ServedIndex as ServedIndex
from .settings import Limits as Limits
from .settings import ServerSettings as ServerSettings
