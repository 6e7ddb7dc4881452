"""From one rule to every execution: vocabulary, translator, printers and what runs them."""
