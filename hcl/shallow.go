package hcl

// surelyShallow is checkDepth without tokens, which are a hundred times the size of what they stand for: large configurations would be scanned twice for nothing. It
// reads comments, quotes and templates as the scanner does, counts no less than checkDepth, and knows only what is usual: with the first heredoc, control
// sequence or oddity it gives up, and says false, as it does of what is too deep. Then checkDepth decides.
func surelyShallow(src []byte) bool {
	_, sure := deepest(src)
	return sure
}

// deepest is the greatest depth, and whether it and all chains are surely within their bounds.
func deepest(src []byte) (most int, sure bool) {
	var open [maxNesting + 1]byte // what each level was opened with; '$' is a template's sequence
	var chain [maxNesting + 1]int
	depth := 0
	next := func(i int) byte {
		if i+1 < len(src) {
			return src[i+1]
		}
		return 0
	}
	push := func(c byte) bool {
		if depth == maxNesting {
			return false
		}
		depth++
		most = max(most, depth)
		open[depth], chain[depth] = c, 0
		return true
	}
	for i := 0; i < len(src); i++ {
		c := src[i]
		if c >= 0x80 || c < ' ' && c != '\n' && c != '\t' {
			return most, false
		}
		if open[depth] == '"' {
			switch c {
			case '\n':
				return most, false
			case '"':
				depth--
			case '\\':
				if n := next(i); n == '$' || n == '%' || n < ' ' || n >= 0x80 {
					return most, false
				}
				i++
			case '$', '%':
				switch n := next(i); {
				case c == '$' && n == '{':
					if !push('$') {
						return most, false
					}
					i++
				case n == '{' || n == '"' || n == '\\' || n == '$' || n == '%' || n < ' ' || n >= 0x80:
					return most, false
				}
			}
			continue
		}
		switch c {
		case '#':
			i = endOfLine(src, i)
		case '/':
			switch next(i) {
			case '/':
				i = endOfLine(src, i)
			case '*':
				return most, false
			default:
				chain[depth]++
			}
		case '"':
			if !push(c) {
				return most, false
			}
		case '{', '(':
			if !push(c) {
				return most, false
			}
		case '[':
			chain[depth]++
			if !push(c) {
				return most, false
			}
		case '}':
			if open[depth] != '{' && open[depth] != '$' {
				return most, false
			}
			depth--
		case ')':
			if open[depth] != '(' {
				return most, false
			}
			depth--
		case ']':
			if open[depth] != '[' {
				return most, false
			}
			depth--
		case '\n':
			if depth == 0 || open[depth] == '{' {
				chain[depth] = 0
			}
		case ',':
			chain[depth] = 0
		case '<':
			if next(i) == '<' {
				return most, false
			}
			chain[depth]++
		case '!', '-', '+', '*', '%', '?', '&', '|', '=', '>':
			chain[depth]++
		}
		if chain[depth] > maxChain {
			return most, false
		}
	}
	return most, depth == 0
}

// endOfLine is the place before the next newline, so that the newline is still seen, or the last one. A comment that holds something odd ends it all: see surelyShallow.
func endOfLine(src []byte, i int) int {
	for i+1 < len(src) && src[i+1] != '\n' {
		i++
	}
	return i
}
