"""What is analysed: frozen, validated values. No algorithm lives here."""
