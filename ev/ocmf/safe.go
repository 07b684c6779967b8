package ocmf

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Entry is one value of a container: a signed text and the key that came with it.
type Entry struct {
	TransactionID string
	Context       string // "Transaction.Begin", "Transaction.End" or empty
	Format        string // "OCMF" or empty; other formats are returned as they are and fail in Parse
	Record        []byte
	Key           string // text for ParseKey; unconfirmed: it came with the record
}

// Limits of a container.
const (
	MaxContainer = 1 << 20
	MaxEntries   = 256
)

// ErrContainer says that a file is not a container of signed values; the text names what is wrong.
var ErrContainer = errors.New("ocmf: not a container of signed meter values")

type xmlText struct {
	Encoding string `xml:"encoding,attr"`
	Format   string `xml:"format,attr"`
	Text     string `xml:",chardata"`
}

type xmlValue struct {
	TransactionID string  `xml:"transactionId,attr"`
	Context       string  `xml:"context,attr"`
	SignedData    xmlText `xml:"signedData"`
	PublicKey     xmlText `xml:"publicKey"`
}

type xmlValues struct {
	XMLName xml.Name
	Values  []xmlValue `xml:"value"`
}

// ParseContainer reads the XML file that stations and portals hand to customers for the transparency software of
// S.A.F.E. e.V. Errors wrap ErrContainer; a value that cannot be decoded fails the file.
func ParseContainer(raw []byte) ([]Entry, error) {
	if len(raw) > MaxContainer {
		return nil, fmt.Errorf("%w: longer than %d bytes", ErrContainer, MaxContainer)
	}
	d := xml.NewDecoder(bytes.NewReader(bytes.TrimPrefix(raw, []byte("\xef\xbb\xbf"))))
	d.CharsetReader = charset
	var v xmlValues
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrContainer, err)
	}
	if len(v.Values) == 0 || len(v.Values) > MaxEntries {
		return nil, fmt.Errorf("%w: %d values, want 1 to %d", ErrContainer, len(v.Values), MaxEntries)
	}
	var out []Entry
	for i, x := range v.Values {
		record, err := decodeText(x.SignedData)
		if err != nil {
			return nil, fmt.Errorf("%w: value %d: %w", ErrContainer, i, err)
		}
		out = append(out, Entry{TransactionID: x.TransactionID, Context: x.Context, Format: x.SignedData.Format,
			Record: record, Key: strings.TrimSpace(x.PublicKey.Text)})
	}
	return out, nil
}

func decodeText(t xmlText) ([]byte, error) {
	text := strings.TrimSpace(t.Text)
	switch strings.ToLower(t.Encoding) {
	case "", "plain":
		return []byte(text), nil
	case "base64":
		return base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), ""))
	case "hex":
		return hex.DecodeString(strings.Join(strings.Fields(text), ""))
	}
	return nil, fmt.Errorf("unknown encoding %q", t.Encoding)
}

// charset reads the two character sets that such files declare.
func charset(name string, in io.Reader) (io.Reader, error) {
	switch strings.ToLower(name) {
	case "utf-8", "us-ascii":
		return in, nil
	case "iso-8859-1", "latin1":
		raw, err := io.ReadAll(in)
		if err != nil {
			return nil, err
		}
		text := make([]rune, len(raw))
		for i, b := range raw {
			text[i] = rune(b)
		}
		return strings.NewReader(string(text)), nil
	}
	return nil, fmt.Errorf("unknown character set %q", name)
}
