"""SavedModel export, checked by the exporter itself."""

from kvision.export.exporter import ExportReport, saved_model

__all__ = ["ExportReport", "saved_model"]
