"""What a finished or interrupted run left in its folder, read back: for tables, comparisons and report cards."""

from dunwu.reports.run_folder import RunFolder, open_run

__all__ = ["RunFolder", "open_run"]
