# Text to HTML: the first line is the title, blank lines part paragraphs.
function escape(s) { gsub(/&/, "\\&amp;", s); gsub(/</, "\\&lt;", s); return s }
NR == 1 { printf "<!doctype html>\n<title>%s</title>\n<h1>%s</h1>\n", escape($0), escape($0); next }
/^$/ { if (open) print "</p>"; open = 0; next }
{ if (!open) print "<p>"; open = 1; print escape($0) }
END { if (open) print "</p>" }
