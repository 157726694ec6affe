"""From records to frames, tables, figures: `tidy` -> `tables` -> `text`, `figures`; `output` writes and reads them."""
