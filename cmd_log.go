package starpod

import (
	"fmt"
	"io"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// logger writes short lines for people: run shares standard error with the
// command that it runs.
func (f *runFlags) logger(out io.Writer) (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(f.logLevel)
	if err != nil || level > zapcore.ErrorLevel {
		return nil, fmt.Errorf("--log-level: %q is unknown: choose debug, info, warn or error", f.logLevel)
	}
	if f.quiet {
		return zap.NewNop(), nil
	}
	if f.verbose && level > zapcore.InfoLevel {
		level = zapcore.InfoLevel
	}
	encoder := zapcore.NewConsoleEncoder(zapcore.EncoderConfig{
		MessageKey:       "message",
		LevelKey:         "level",
		ConsoleSeparator: " ",
		EncodeDuration:   zapcore.StringDurationEncoder,
		EncodeTime:       zapcore.RFC3339TimeEncoder,
		EncodeLevel: func(l zapcore.Level, line zapcore.PrimitiveArrayEncoder) {
			line.AppendString("starpod: " + l.String() + ":")
		},
	})
	return zap.New(zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(out)), level)), nil
}
