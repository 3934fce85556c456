from .scanner import RayScanner as RayScanner
from .workers import RayWorkers as RayWorkers

__all__ = ["RayScanner", "RayWorkers"]
