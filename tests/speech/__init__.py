"""Tests: the scripts run as users run them, every module against an independent reference."""
